//! One route of the document.

use utoipa::{
    ToSchema,
    openapi::{
        Content, HttpMethod, Ref, RefOr, Required, ResponseBuilder, Schema,
        extensions::Extensions,
        path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type},
        security::SecurityRequirement,
    },
};

use super::{super::error::ErrorBody, Needs};

/// Schemas by name, as the document's components have them.
pub(super) type Named = Vec<(String, RefOr<Schema>)>;

/// Who may call a route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Holders of a key, where keys are configured.
    Api,
    /// Holders of an admin key; without any key configured, programs on the same machine.
    Admin,
}

/// A method of a path.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) method: HttpMethod,
    pub(super) schemas: Named,
    operation: OperationBuilder,
    access: Access,
    errors: Vec<u16>,
    answers: ResponseBuilder,
}

impl Route {
    /// `GET path`.
    pub(super) fn get(access: Access, path: &'static str, summary: &str) -> Route {
        Route::new(access, HttpMethod::Get, path, summary)
    }

    /// `POST path`.
    pub(super) fn post(access: Access, path: &'static str, summary: &str) -> Route {
        Route::new(access, HttpMethod::Post, path, summary)
    }

    fn new(access: Access, method: HttpMethod, path: &'static str, summary: &str) -> Route {
        let tag = match access {
            Access::Open => "operation",
            Access::Admin => "admin",
            Access::Api => match path {
                "/v1/completions" | "/v1/chat/completions" => "generation",
                _ if path.contains("model") || path.contains("token") => "models and tokens",
                "/v1/feedback" => "feedback",
                _ => "scoring",
            },
        };
        let errors = match access {
            Access::Open => vec![403, 431, 500, 503],
            Access::Api => vec![401, 403, 431, 500, 503],
            Access::Admin => vec![401, 403, 431, 500, 503],
        };
        Route {
            path,
            method,
            schemas: Vec::new(),
            operation: OperationBuilder::new().summary(Some(summary)).tag(tag),
            access,
            errors,
            answers: ResponseBuilder::new().description("What was asked for."),
        }
    }

    /// A JSON body, which must be there.
    pub(super) fn reads<T: ToSchema>(self) -> Route {
        self.body::<T>(Required::True)
    }

    /// A JSON body, which may be missing.
    pub(super) fn may_read<T: ToSchema>(self) -> Route {
        self.body::<T>(Required::False)
    }

    fn body<T: ToSchema>(mut self, required: Required) -> Route {
        let content = Content::new(Some(self.know::<T>()));
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(required)).build();
        self.operation = self.operation.request_body(Some(body));
        self.fails(&[400, 413, 415])
    }

    /// A parameter in the query.
    pub(super) fn query(self, name: &str, schema: impl Into<RefOr<Schema>>, description: &str) -> Route {
        self.parameter(ParameterIn::Query, name, schema, description).fails(&[400])
    }

    /// A parameter in the path.
    pub(super) fn in_path(self, name: &str, description: &str) -> Route {
        let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
        self.parameter(ParameterIn::Path, name, text, description).fails(&[400, 404])
    }

    fn parameter(
        mut self,
        place: ParameterIn,
        name: &str,
        schema: impl Into<RefOr<Schema>>,
        description: &str,
    ) -> Route {
        let required = if place == ParameterIn::Path { Required::True } else { Required::False };
        let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(required);
        self.operation = self.operation.parameter(parameter.description(Some(description)).schema(Some(schema)));
        self
    }

    /// A JSON answer.
    pub(super) fn answers<T: ToSchema>(mut self) -> Route {
        let content = Content::new(Some(self.know::<T>()));
        self.answers = self.answers.content("application/json", content);
        self
    }

    /// Has the document hold this schema too: what a generic answer is made of is not found by itself.
    pub(super) fn with<T: ToSchema>(mut self) -> Route {
        self.know::<T>();
        self
    }

    /// A JSON answer of one shape, or a list of another.
    pub(super) fn answers_either<T: ToSchema, E: ToSchema>(mut self) -> Route {
        let list = ArrayBuilder::new().items(self.know::<E>());
        let either = OneOfBuilder::new().item(self.know::<T>()).item(list);
        self.answers = self.answers.content("application/json", Content::new(Some(either)));
        self
    }

    /// A JSON answer that is a list of these, or a list of such lists.
    pub(super) fn answers_nested<T: ToSchema>(mut self) -> Route {
        let one = self.know::<T>();
        let list = || ArrayBuilder::new().items(one.clone());
        let either = OneOfBuilder::new().item(list()).item(ArrayBuilder::new().items(list()));
        self.answers = self.answers.content("application/json", Content::new(Some(either)));
        self
    }

    /// A JSON object that has no schema of its own.
    pub(super) fn answers_object(mut self) -> Route {
        let object = ObjectBuilder::new().schema_type(Type::Object);
        self.answers = self.answers.content("application/json", Content::new(Some(object)));
        self
    }

    /// An answer in words, or a stream, of this type.
    pub(super) fn answers_text(mut self, media_type: &str) -> Route {
        let text = ObjectBuilder::new().schema_type(Type::String);
        self.answers = self.answers.content(media_type, Content::new(Some(text)));
        self
    }

    /// Server-sent events whose data are these, or the error that ends a stream that had begun. A schema of this media type
    /// describes one event.
    pub(super) fn streams<T: ToSchema>(mut self) -> Route {
        let data = |of: ObjectBuilder| ObjectBuilder::new().property("data", of).required("data");
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let chunk = OneOfBuilder::new().item(self.know::<T>()).item(self.know::<ErrorBody>());
        let chunk = serde_json::to_value(chunk.build()).expect("a schema is JSON");
        // utoipa has no name for this keyword, and writes what it does not know as it is.
        let schema = Extensions::from_iter([("contentSchema", chunk)]);
        let json = data(text().content_media_type("application/json").extensions(Some(schema)));
        let end = data(text().enum_values(Some(["[DONE]"])));
        let event = AnyOfBuilder::new().item(json).item(end);
        self.answers = self.answers.content("text/event-stream", Content::new(Some(event)));
        self
    }

    /// Statuses of errors beside those that every route of its kind has.
    pub(super) fn fails(mut self, statuses: &[u16]) -> Route {
        self.errors.extend(statuses);
        self
    }

    /// The finished operation.
    pub(super) fn finish(mut self, needs: Needs) -> (Operation, Named) {
        self.errors.sort_unstable();
        self.errors.dedup();
        let error = self.know::<ErrorBody>();
        let mut operation = self.operation.response("200", self.answers);
        for status in self.errors {
            let content = Content::new(Some(error.clone()));
            let response = ResponseBuilder::new().description(reason(status)).content("application/json", content);
            operation = operation.response(status.to_string(), response);
        }
        let operation = match self.access {
            Access::Open => operation,
            Access::Api => secured(operation, needs.api_key),
            // Where there are keys at all, none but an admin key opens it.
            Access::Admin => secured(operation, needs.api_key || needs.admin_key),
        };
        (operation.build(), self.schemas)
    }

    /// A reference to a schema, which the document will hold.
    fn know<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let name = name::<T>();
        self.schemas.push((name.clone(), T::schema()));
        T::schemas(&mut self.schemas);
        RefOr::Ref(Ref::from_schema_name(name))
    }
}

/// With a key or, where none is asked for, also without.
fn secured(operation: OperationBuilder, needs_key: bool) -> OperationBuilder {
    let operation = operation.security(SecurityRequirement::new("key", [""; 0]));
    if needs_key { operation } else { operation.security(SecurityRequirement::default()) }
}

/// A name of its own for each type: utoipa's leaves out what a generic type is made of, so two lists would be one schema.
fn name<T: ToSchema>() -> String {
    let parts = std::any::type_name::<T>().trim_end_matches('>').split(['<', ',']).skip(1).map(str::trim);
    let parts = parts.filter(|part| !part.starts_with('\'')).filter_map(|part| part.rsplit("::").next());
    parts.fold(T::name().into_owned(), |name, part| format!("{name}_{part}"))
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => {
            "The request breaks a rule; `param` names the field. The `code` is `invalid_value` where the request does not \
             fit this document; the others are of rules that no schema can say: `fields_disagree` (fields that do not fit \
             each other), `context_length_exceeded`, `unknown_token`, `invalid_grammar`, `invalid_messages`, \
             `invalid_path`, `invalid_model`."
        }
        401 => "No key, or one that is not known.",
        403 => "A key without the right to do this, a foreign page or host name, or a path that leads out.",
        404 => "There is no such thing; `param` is `model` when it is the model.",
        409 => "The state is not what the request expects.",
        413 => "The body is larger than `daemon.body_bytes_max`, or the file than `daemon.import_bytes_max`.",
        415 => "The body is not `application/json`, or it is compressed.",
        429 => "Too many requests are waiting; `Retry-After` says when to come back.",
        431 => "The start line and the headers are larger than `daemon.header_bytes_max`.",
        503 => {
            "Loading, draining, out of time (`timeout`), or the disk is full; `Retry-After` says when to come back, and \
             `x-should-retry: false` that the same request should not be sent again by itself."
        }
        _ => "Our fault; the log names the cause beside the request's id.",
    }
}
