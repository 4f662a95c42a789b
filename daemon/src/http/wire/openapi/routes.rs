//! Every route, as the document shows it; a test holds the list to the router.

use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::{
    super::{
        audit::AuditPage,
        chat::{Chat, ChatChoice, ChatChunkChoice},
        completion::Completion,
        feedback::FeedbackResponse,
        forget::ForgottenReport,
        health::{Health, Version},
        model::{Model, ModelList},
        policy::{PolicyList, PolicyRow},
        rerank::{Prediction, Ranking, TeiRanked},
        reward::{GetRewardResponse, RewardList},
        reward_model::RewardModelCard,
        rollout::RolloutPage,
        score::{ClassEntry, PoolEntry, ScoreEntry, ScoreList},
        tokens::{DetokenizeResponse, TokenizeResponse, TokenizerInfo},
        training::Training,
    },
    bodies::{
        ActivationBody, ChatBody, CompletionBody, DetokenizeBody, FeedbackBody, ForgetBody, GetRewardBody, LoadBody,
        PoolingBody, PredictBody, RerankBody, RewardModelBody, RewardsBody, ScorePairsBody, TokenizeBody, WholeBody,
    },
    route::{
        Access::{Admin, Api, Open},
        Route,
    },
};

const TEXT: &str = "text/plain";
const HTML: &str = "text/html";

/// All of them.
pub(super) fn all() -> Vec<Route> {
    [generation(), models(), scoring(), admin(), operation()].into_iter().flatten().collect()
}

fn generation() -> Vec<Route> {
    let route = |path, summary| Route::post(Api, path, summary).fails(&[404, 409, 429]);
    vec![
        route("/v1/completions", "Continue prompts")
            .reads::<CompletionBody>()
            .answers::<Completion>()
            .streams::<Completion>(),
        route("/v1/chat/completions", "Answer a conversation")
            .reads::<ChatBody>()
            .answers::<Chat<'_, ChatChoice>>()
            .with::<ChatChoice>()
            .streams::<Chat<'_, ChatChunkChoice>>()
            .with::<ChatChunkChoice>(),
        Route::post(Api, "/v1/feedback", "Say how an answer was; idempotent by id, index and user")
            .fails(&[404, 429])
            .reads::<FeedbackBody>()
            .answers::<FeedbackResponse>(),
    ]
}

fn models() -> Vec<Route> {
    vec![
        Route::get(Api, "/v1/models", "Every name that `model` may hold").answers::<ModelList>(),
        Route::get(Api, "/v1/models/{id}", "One of them").in_path("id", "A model's name.").answers::<Model>(),
        Route::post(Api, "/tokenize", "Text or messages to token ids")
            .fails(&[404, 429])
            .reads::<TokenizeBody>()
            .answers::<TokenizeResponse>(),
        Route::post(Api, "/detokenize", "Token ids to text")
            .fails(&[404, 429])
            .reads::<DetokenizeBody>()
            .answers::<DetokenizeResponse>(),
        Route::get(Api, "/tokenizer_info", "What a remote tokenizer needs to know").answers::<TokenizerInfo>(),
    ]
}

fn scoring() -> Vec<Route> {
    let route = |path, summary| Route::post(Api, path, summary).fails(&[404, 429]);
    let pairs = |path| {
        let route = route(path, "Scores of prompts and responses, in vLLM's shape");
        route.reads::<ScorePairsBody>().answers::<ScoreList<ScoreEntry>>().with::<ScoreEntry>()
    };
    let rerank = |path| {
        let summary = "Responses to one prompt, best first: Jina's shape, or TEI's plain list for `texts`";
        route(path, summary).reads::<RerankBody>().answers_either::<Ranking, TeiRanked>()
    };
    vec![
        route("/v1/rewards", "Scores of responses and conversations").reads::<RewardsBody>().answers::<RewardList>(),
        route("/get_reward", "OpenRLHF's remote reward model").reads::<GetRewardBody>().answers::<GetRewardResponse>(),
        pairs("/v1/score"),
        pairs("/score"),
        route("/classify", "Scores of whole texts, as a label's")
            .reads::<WholeBody>()
            .answers::<ScoreList<ClassEntry>>()
            .with::<ClassEntry>(),
        route("/pooling", "Scores of whole texts, as a head's")
            .reads::<PoolingBody>()
            .answers::<ScoreList<PoolEntry>>()
            .with::<PoolEntry>(),
        rerank("/v1/rerank"),
        rerank("/rerank"),
        route("/predict", "TEI's predictions: a list of one for each input, or one such list")
            .reads::<PredictBody>()
            .answers_nested::<Prediction>(),
    ]
}

fn admin() -> Vec<Route> {
    let version = |route: Route| route.in_path("version", "A number, or `policy@N`.");
    let training = |path, summary| Route::post(Admin, path, summary).fails(&[409, 429]).answers::<Training>();
    let number =
        |low: u64, high: u64| ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(low)).maximum(Some(high));
    let position = || number(0, i64::MAX.cast_unsigned());
    let word = ObjectBuilder::new().schema_type(Type::String);
    vec![
        Route::get(Admin, "/v1/policies", "Every version of the policy").answers::<PolicyList>(),
        Route::post(Admin, "/v1/policies", "Load a model file as a version; with `promote`, make it live")
            .fails(&[404, 409, 429])
            .reads::<LoadBody>()
            .answers::<PolicyRow>(),
        version(Route::get(Admin, "/v1/policies/{version}", "One version")).answers::<PolicyRow>(),
        version(Route::post(Admin, "/v1/policies/{version}/activate", "Make a version live: rollback"))
            .fails(&[409, 429])
            .may_read::<ActivationBody>()
            .answers::<PolicyRow>(),
        Route::get(Admin, "/v1/rewards/model", "Which reward model judges").fails(&[404]).answers::<RewardModelCard>(),
        Route::post(Admin, "/v1/rewards/model", "Have another reward model judge, or the configured file read again")
            .fails(&[404, 409])
            .may_read::<RewardModelBody>()
            .answers::<RewardModelCard>(),
        Route::get(Admin, "/v1/training", "What the learner does").answers::<Training>(),
        training("/v1/training/pause", "Begin no further update until resumed; a restart resumes, except after a halt"),
        training("/v1/training/resume", "Begin updates again"),
        training("/v1/training/step", "While paused: one update, as soon as enough rollouts can be claimed"),
        Route::get(Admin, "/v1/audit", "Who did what: a page of the audit log, newest last")
            .query("after", position(), "Only rows after this `number`; `next_after` of the page before.")
            .query("limit", number(1, 1000), "Rows at most.")
            .answers::<AuditPage>(),
        Route::get(Admin, "/v1/rollouts", "A page of the rollout log, newest last")
            .query("after", position(), "Only rows after this `seq`; `next_after` of the page before.")
            .query("limit", number(1, 1000), "Rows at most.")
            .query("version", position(), "Only rows that this version drew.")
            .query("state", word.enum_values(Some(states())), "Only rows in this state.")
            .answers::<RolloutPage>(),
        Route::post(Admin, "/v1/rollouts/forget", "Remove everything of one user from the log")
            .fails(&[429])
            .reads::<ForgetBody>()
            .answers::<ForgottenReport>(),
    ]
}

fn states() -> [&'static str; 6] {
    ppo::rollout_log::RolloutState::ALL.map(|state| state.as_str())
}

fn operation() -> Vec<Route> {
    let health = |path| Route::get(Open, path, "As llama-server answers").answers::<Health>();
    vec![
        Route::get(Open, "/", "A page for people").answers_text(HTML),
        Route::get(Open, "/docs", "This document for people").answers_text(HTML),
        Route::get(Open, "/openapi.json", "This document").answers_object(),
        Route::get(Open, "/livez", "200 while the process runs").answers_text(TEXT),
        Route::get(Open, "/readyz", "200 while requests are admitted, 503 while loading or draining")
            .answers_text(TEXT),
        health("/health"),
        health("/v1/health"),
        Route::get(Open, "/version", "Which program this is").answers::<Version>(),
        Route::get(Open, "/metrics", "Prometheus text").answers_text(TEXT),
    ]
}
