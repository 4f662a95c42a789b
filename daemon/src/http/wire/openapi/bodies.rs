//! What requests may hold, as the document shows it.
//!
//! Requests are parsed by hand ([`super::super::fields`]), because clients need the name of the field and the rule that it
//! broke, so there is no type to derive a schema from. These types exist for their schemas only; a test parses with the real
//! parsers, notes every field that they look at, and holds the two sets together. Fields that are refused are not here.

#![allow(dead_code, reason = "nothing is built of these types: they are read by the derive macro")]

mod chat;
mod generation;
mod operation;
mod rules;
mod scoring;
mod unions;

pub(super) use self::{
    chat::ChatBody,
    generation::CompletionBody,
    operation::{ActivationBody, DetokenizeBody, FeedbackBody, ForgetBody, LoadBody, RewardModelBody, TokenizeBody},
    scoring::{GetRewardBody, PoolingBody, PredictBody, RerankBody, RewardsBody, ScorePairsBody, WholeBody},
};
use self::{chat::MessageBody, generation::SharedBody};
