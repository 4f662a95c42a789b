//! Rules between fields, as JSON Schema says them: cases of which a request must fit at least one.
//!
//! What no schema can say (which of two numbers is larger, how long a list is beside another one) is not here: the parser
//! refuses it under a code of its own, and the description of status 400 names those codes.

use utoipa::openapi::{
    RefOr, Schema,
    schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, SchemaType, Type},
};

/// A request that fits one of these.
pub(super) fn any_of(cases: impl IntoIterator<Item = ObjectBuilder>) -> RefOr<Schema> {
    cases.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item).into()
}

/// A case in which a field is there and fits this.
pub(super) fn with(name: &str, schema: impl Into<RefOr<Schema>>) -> ObjectBuilder {
    ObjectBuilder::new().property(name, schema).required(name)
}

/// A case in which a field fits this, or is not there.
pub(super) fn when(name: &str, schema: impl Into<RefOr<Schema>>) -> ObjectBuilder {
    ObjectBuilder::new().property(name, schema)
}

/// What counts as absent.
pub(super) fn null() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Null)
}

/// Anything else.
pub(super) fn given() -> ObjectBuilder {
    let types = [Type::Boolean, Type::Number, Type::String, Type::Array, Type::Object];
    ObjectBuilder::new().schema_type(SchemaType::from_iter(types))
}

/// `true`.
pub(super) fn yes() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([true]))
}

/// `false`, or absent.
pub(super) fn no() -> ObjectBuilder {
    let values = [serde_json::Value::Bool(false), serde_json::Value::Null];
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Boolean, Type::Null])).enum_values(Some(values))
}

/// An empty text, or absent.
fn empty() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null])).max_length(Some(0)).into()
}

/// An integer of this or less, or absent.
pub(super) fn up_to(high: u32) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Integer, Type::Null])).maximum(Some(high))
}

/// One of these fields and no other one of them.
pub(super) fn exactly_one(names: &[&str]) -> RefOr<Schema> {
    let case = |chosen: &&str| {
        let others = names.iter().filter(|name| *name != chosen);
        others.fold(with(chosen, given()), |case, name| case.property(*name, null()))
    };
    any_of(names.iter().map(case))
}

/// One of these fields or several.
pub(super) fn at_least_one(names: &[&str]) -> RefOr<Schema> {
    any_of(names.iter().map(|name| with(name, given())))
}

/// The fields that say what form an answer has, each with what asks for nothing.
fn forms() -> Vec<(&'static str, RefOr<Schema>)> {
    let text = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null]));
    let text = text.enum_values(Some([serde_json::Value::Null, "text".into()]));
    let unstructured =
        structured_forms().into_iter().fold(ObjectBuilder::new(), |case, (name, none)| case.property(name, none));
    vec![
        ("response_format", AnyOfBuilder::new().item(null()).item(when("type", text)).into()),
        ("guided_json", null().into()),
        ("guided_regex", null().into()),
        ("guided_choice", null().into()),
        ("guided_grammar", empty()),
        ("structured_outputs", AnyOfBuilder::new().item(null()).item(unstructured).into()),
        ("json_schema", null().into()),
        ("grammar", empty()),
    ]
}

/// Those of `structured_outputs`.
fn structured_forms() -> Vec<(&'static str, RefOr<Schema>)> {
    vec![("json", null().into()), ("regex", null().into()), ("choice", null().into()), ("grammar", empty())]
}

/// A case in which all but one of these ask for nothing.
fn only(chosen: &str, fields: &[(&'static str, RefOr<Schema>)]) -> ObjectBuilder {
    let others = fields.iter().filter(|(name, _)| *name != chosen);
    others.fold(ObjectBuilder::new(), |case, (name, nothing)| case.property(*name, nothing.clone()))
}

/// One form at most inside of `structured_outputs`.
pub(super) fn one_structure() -> RefOr<Schema> {
    let forms = structured_forms();
    any_of(forms.iter().map(|(name, _)| only(name, &forms)))
}

/// What holds on both generation routes. Few cases, each with all that it asks for: who reads a schema multiplies them.
pub(super) fn generation() -> Vec<RefOr<Schema>> {
    let forms = forms();
    let with_form = |name: &str| only(name, &forms).property("ignore_eos", no()).property("min_tokens", up_to(0));
    let formed = forms.iter().map(|(name, _)| with_form(name));
    let streamed = with("stream", yes()).property("prompt_logprobs", null());
    let whole = when("stream", no()).property("stream_options", null());
    vec![any_of(std::iter::once(only("", &forms)).chain(formed)), any_of([streamed, whole])]
}

/// The schema of a body, and these rules beside it.
pub(super) fn beside(schema: RefOr<Schema>, rules: impl IntoIterator<Item = RefOr<Schema>>) -> RefOr<Schema> {
    let mut all = match schema {
        RefOr::T(Schema::AllOf(fields)) => fields,
        RefOr::T(Schema::Object(mut fields)) => {
            let mut all = AllOfBuilder::new().description(fields.description.take()).build();
            all.example = fields.example.take();
            all.items.push(fields.into());
            all
        }
        other => AllOfBuilder::new().item(other).build(),
    };
    all.items.extend(rules);
    RefOr::T(Schema::AllOf(all))
}

/// Gives a name to the fields of one type with the rules between them.
macro_rules! ruled {
    ($(#[doc = $doc:literal] $visible:vis $name:ident, $shown:literal: $fields:ty, $rules:expr;)*) => {$(
        #[doc = $doc]
        #[derive(serde::Serialize)]
        $visible struct $name;

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::http::wire::openapi::bodies::rules::beside(<$fields>::schema(), $rules)
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $shown.into()
            }

            fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>) {
                <$fields>::schemas(schemas);
            }
        }
    )*};
}
pub(super) use ruled;
