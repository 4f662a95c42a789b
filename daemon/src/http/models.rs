//! `GET /v1/models`: every name that the `model` field may hold.

use axum::{
    Json,
    extract::{Path, State},
};

use policy::engine::ResidentState;

use super::{
    context::{Context, Services},
    error::ApiError,
    wire::model::{Model, ModelList},
};

/// All of them.
pub(crate) async fn list(State(context): State<Context>) -> Result<Json<ModelList>, ApiError> {
    let services = context.services()?;
    Ok(Json(ModelList { object: "list", data: all(&context, &services) }))
}

/// One of them.
pub(crate) async fn get(State(context): State<Context>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    let services = context.services()?;
    let found = all(&context, &services).into_iter().find(|model| model.id == id);
    found.map(Json).ok_or_else(|| ApiError::UnknownModel(id.chars().take(128).collect()))
}

fn all(context: &Context, services: &Services) -> Vec<Model> {
    let live = services.engine.live();
    let mut residents = services.engine.residents();
    residents.sort_by_key(|resident| std::cmp::Reverse(resident.version));
    let model = |id: &str, version: Option<u64>, state: Option<&'static str>| Model {
        id: id.to_owned(),
        object: "model",
        created: context.started_s(),
        owned_by: "honed",
        max_model_len: version.map(|_| services.engine.context_tokens() as usize),
        version,
        state,
    };
    let mut models = vec![model(context.served_name(), Some(live.0), Some("live"))];
    for resident in &residents {
        let state = Some(state_word(resident.state));
        models.push(model(&resident.version.to_string(), Some(resident.version.0), state));
        if resident.version.0 == 0 {
            models.push(model("sft", Some(0), state));
        }
    }
    if services.scorer.is_some() {
        models.push(model("reward", None, None));
    }
    models
}

fn state_word(state: ResidentState) -> &'static str {
    match state {
        ResidentState::Live => "live",
        ResidentState::Ready => "ready",
        ResidentState::Draining => "draining",
    }
}
