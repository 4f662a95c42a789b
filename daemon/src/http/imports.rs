//! `POST /v1/policies`: a model file from the import folder becomes a version.

use axum::{Extension, Json, extract::State};
use policy::{checkpoint::intake::IntakeError, threads};
use ppo::{
    import::{ImportError, Wish},
    registry::RegistryError,
    rollout_log::{Act, Action, ImportSource, VersionState, Who},
};

use super::{
    blocking,
    body::JsonBytes,
    context::Context,
    error::ApiError,
    policies,
    wire::{
        error::{INVALID_MODEL, INVALID_PATH},
        policy::{LoadRequest, PolicyRow},
    },
};

/// Takes the file in, has it judged, and makes it live when asked.
pub(crate) async fn post(
    State(context): State<Context>,
    Extension(who): Extension<Who>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<PolicyRow>, ApiError> {
    let LoadRequest { path, promote, expected_live } = LoadRequest::parse(&body)?;
    let services = context.admit()?;
    let worker = services.clone();
    let loaded = blocking(move || {
        let Some(importing) = &worker.importing else {
            let why = "no folder is configured from which models may be loaded (daemon.import_dir)";
            let subject = path.to_string_lossy().into_owned();
            worker.log.note(Act::new(&who, Action::Import, subject).refused(why));
            return Err(ApiError::Forbidden(why));
        };
        let activator = worker.activator();
        let make_live = |version| activator.activate(version, expected_live, &who);
        let promote = promote.then_some(&make_live as ppo::import::Promote<'_>);
        let wish = Wish { path: &path, source: ImportSource::Api, who: &who, promote };
        let lower = || threads::lower_priority(threads::NICE_REQUESTS);
        threads::apart(lower, || importing.importer.load(wish).map_err(refusal))
    });
    let version = loaded.await??;
    policies::one(services, version).await.map(Json)
}

/// What is wrong with the file is told to whoever named it; what is wrong with us is not.
fn refusal(error: ImportError) -> ApiError {
    let message = error.to_string();
    match error {
        ImportError::Known { version, state: VersionState::Retained | VersionState::Draining } => {
            let way = format!("POST /v1/policies/{}/activate makes it live", version.0);
            ApiError::Conflict(format!("{version} has these very weights; {way}"))
        }
        ImportError::Busy | ImportError::Known { .. } | ImportError::Rejected { .. } => ApiError::Conflict(message),
        ImportError::Intake(IntakeError::NotAPath(_) | IntakeError::NotAFile { .. }) => {
            ApiError::coded(INVALID_PATH, "path", message)
        }
        ImportError::Intake(IntakeError::Outside { .. }) => ApiError::ForbiddenPath(message),
        ImportError::Intake(IntakeError::NotFound(_)) => ApiError::NotFound(message),
        ImportError::Intake(IntakeError::TooLarge { .. }) => ApiError::FileTooLarge(message),
        ImportError::Malformed(_) => ApiError::coded(INVALID_MODEL, "path", message),
        ImportError::Full => {
            ApiError::Unavailable("as many versions are in memory as may be (policy.residents_max); try again later")
        }
        ImportError::Stopping => ApiError::ShuttingDown,
        ImportError::Unjudged { .. } => {
            ApiError::Unavailable("the file could not be judged now; the cause is in the daemon's log")
        }
        ImportError::Promote(error) => policies::refusal(error),
        ImportError::Registry(RegistryError::Log(error)) => ApiError::not_recorded("a model from outside", &error),
        ImportError::Intake(IntakeError::Io { .. })
        | ImportError::Engine(_)
        | ImportError::Trial(_)
        | ImportError::Registry(_) => ApiError::internal("loading a model", message),
    }
}
