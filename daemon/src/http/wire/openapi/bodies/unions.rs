//! Fields that take one thing or a list of it: the derive macro knows no bounds inside of unions.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        extensions::Extensions,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType, Type},
    },
};

use super::{
    rules::{null, when, with},
    scoring::RewardInputBody,
};

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

/// A text of at least one character and at most so many.
fn text_up_to(length_max: usize) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(length_max)).into()
}

/// Three kinds of object, told apart by their `type`.
fn response_formats() -> [RefOr<Schema>; 3] {
    let kind = |word: &'static str| with("type", only(Type::String, [word]));
    let words = [serde_json::Value::Null, "text".into()];
    let text =
        ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null])).enum_values(Some(words));
    let schema = OneOfBuilder::new().item(null()).item(SchemaBody::schema());
    let named = with("schema", SchemaBody::schema());
    [
        when("type", text).property("json_schema", null()).property("schema", null()).into(),
        kind("json_object").property("json_schema", null()).property("schema", schema).into(),
        kind("json_schema").property("json_schema", named).required("json_schema").property("schema", null()).into(),
    ]
}

/// A list of which at least one element is a list.
fn batch(items: RefOr<Schema>) -> RefOr<Schema> {
    // utoipa has no name for this keyword, and writes what it does not know as it is.
    let contains = Extensions::from_iter([("contains", serde_json::json!({"type": "array"}))]);
    let list = ArrayBuilder::new().items(items).min_items(Some(1)).max_items(Some(4096));
    list.extensions(Some(contains)).into()
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
    StopBody, "Stop": [text_up_to(1024), list(text_up_to(1024), 0, 4)];
    /// Token ids that end a choice.
    StopTokensBody, "StopTokens": [list(integer(0, i32::MAX), 0, 128)];
    /// Token ids.
    TokensBody, "Tokens": [list(integer(0, i32::MAX), 0, 131_072)];
    /// Any 64 bits, signed or not.
    SeedBody, "Seed": [
        ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(i64::MIN)).maximum(Some(u64::MAX)).into()
    ];
    /// Texts of which the answer must be one.
    ChoicesBody, "Choices": [list(text(1), 1, 1024)];
    /// `text` unless told; a `json_object` may have a schema (llama-server), a `json_schema` must.
    ResponseFormatBody, "ResponseFormat": response_formats();
    /// Which side.
    SideBody, "Side": [only(Type::String, ["left", "right", "Left", "Right"])];
    /// Token ids, and what is added to their logits.
    BiasBody, "LogitBias": [biases()];
    /// Only `true`.
    TrueBody, "True": [only(Type::Boolean, [true])];
    /// There are no tools, so nothing is called either way.
    ToolChoiceBody, "ToolChoice": [only(Type::String, ["none", "auto"])];
    /// The text of an object, as the model wrote it, or the object.
    ArgumentsBody, "Arguments": [text(0), ObjectBuilder::new().schema_type(Type::Object).into()];
    /// What some clients send for nothing.
    NothingBody, "Nothing": [
        only(Type::Boolean, [false]),
        only(Type::Number, [0]),
        only(Type::String, [""]),
        ObjectBuilder::new().schema_type(Type::Object).max_properties(Some(0)).into(),
    ];
    /// An empty list.
    NoListBody, "NoList": [ArrayBuilder::new().max_items(Some(0)).into()];
    /// This model writes text only.
    ModalitiesBody, "Modalities": [only(Type::String, ["text"]), list(only(Type::String, ["text"]), 0, 8)];
    /// A JSON schema, or the text of one.
    SchemaBody, "JsonSchema": [ObjectBuilder::new().schema_type(Type::Object).into(), text(2)];
    /// A text, texts, token ids, or lists of token ids.
    PromptBody, "Prompts": [
        text(1),
        list(union("A text, or token ids.", [text(1), token_ids()]), 1, 1024),
        token_ids(),
    ];
    /// -1, or at least 1.
    TokensKept, "TokensKept": [integer(-1, -1), integer(1, i32::MAX)];
    /// Prompts, as many as there are texts, or none.
    PromptsBody, "PromptTexts": [text(0), list(text(0), 0, 4096)];
    /// One text or several.
    TextsBody, "Texts": [text(1), list(text(1), 1, 4096)];
    /// A whole text with its special tokens spelled out, a pair of prompt and response, or a list of such lists.
    PredictInputs, "PredictInputs": [
        text(1),
        list(text(1), 1, 2),
        batch(union("A text, or a pair.", [text(1), list(text(1), 1, 2)])),
    ];
    /// One response or conversation, or several.
    RewardInputs, "RewardInputs": [RewardInputBody::schema(), list(RewardInputBody::schema(), 1, 1024)];
}
