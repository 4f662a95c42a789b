//! Fields that take one thing or a list of it: the derive macro knows no bounds inside of unions.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type},
    },
};

use super::scoring::RewardInputBody;

/// A text of at least so many characters.
fn text(length_min: usize) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(length_min)).into()
}

fn integer(low: i32, high: i32) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(low)).maximum(Some(high)).into()
}

fn list(items: RefOr<Schema>, len_min: usize, len_max: usize) -> RefOr<Schema> {
    ArrayBuilder::new().items(items).min_items(Some(len_min)).max_items(Some(len_max)).into()
}

/// An object whose keys are token ids, and whose values are what is added to their logits.
fn biases() -> RefOr<Schema> {
    let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,9}$"));
    let bias = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(-100)).maximum(Some(100));
    let biases = ObjectBuilder::new().schema_type(Type::Object).property_names(Some(id));
    biases.additional_properties(Some(bias)).max_properties(Some(1024)).into()
}

/// One of these words or values.
fn only<T: Into<serde_json::Value>>(kind: Type, values: impl IntoIterator<Item = T>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(kind).enum_values(Some(values)).into()
}

/// As long as a prompt may be: what fits the context window is for the engine to say.
fn token_ids() -> RefOr<Schema> {
    ArrayBuilder::new().items(integer(0, i32::MAX)).min_items(Some(1)).into()
}

fn union(about: &str, of: impl IntoIterator<Item = RefOr<Schema>>) -> RefOr<Schema> {
    let union = of.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item);
    union.description(Some(about)).into()
}

macro_rules! union {
    ($(#[doc = $doc:literal] $name:ident, $shown:literal: $schema:expr;)*) => {$(
        #[doc = $doc]
        #[derive(serde::Serialize)]
        pub(super) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                union($doc.trim(), $schema)
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                $shown.into()
            }
        }
    )*};
}

union! {
    /// A text or a few that end a choice.
    StopBody, "Stop": [text(1), list(text(1), 0, 4)];
    /// Token ids, and what is added to their logits.
    BiasBody, "LogitBias": [biases()];
    /// Only `true`.
    TrueBody, "True": [only(Type::Boolean, [true])];
    /// There are no tools, so nothing is called either way.
    ToolChoiceBody, "ToolChoice": [only(Type::String, ["none", "auto"])];
    /// This model writes text only.
    ModalitiesBody, "Modalities": [only(Type::String, ["text"]), list(only(Type::String, ["text"]), 0, 8)];
    /// A JSON schema, or the text of one.
    SchemaBody, "JsonSchema": [ObjectBuilder::new().schema_type(Type::Object).into(), text(2)];
    /// A text, texts, token ids, or lists of token ids.
    PromptBody, "Prompts": [
        text(1),
        list(text(1), 1, 1024),
        token_ids(),
        list(token_ids(), 1, 1024),
    ];
    /// -1, or at least 1.
    TokensKept, "TokensKept": [integer(-1, -1), integer(1, i32::MAX)];
    /// One text or several.
    TextsBody, "Texts": [text(1), list(text(1), 1, 4096)];
    /// A whole text with its special tokens spelled out, a pair of prompt and response, or a list of such lists.
    PredictInputs, "PredictInputs": [
        text(1),
        list(text(1), 1, 2),
        list(list(text(1), 1, 2), 1, 4096),
    ];
    /// One response or conversation, or several.
    RewardInputs, "RewardInputs": [RewardInputBody::schema(), list(RewardInputBody::schema(), 1, 1024)];
}
