//! `GET /openapi.json`: what this daemon answers, for programs.
//!
//! Answers are described by the types that are serialised. Requests are parsed by hand, so [`bodies`] describes them, and a
//! test holds both descriptions to the code: every field that a parser looks at is in the schema, and no other.

mod bodies;
mod route;
mod routes;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::OnceLock};

use utoipa::openapi::{
    Components, ComponentsBuilder, Info, License, OpenApi, OpenApiBuilder, PathItem, Paths, RefOr, Schema,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

const ABOUT: &str = "`honed` serves a language model and trains it while it serves. Every answer carries the version of the \
    policy behind it in `x-honed-version`, every score its judge in `x-honed-reward-version`, and every answer its \
    `x-request-id`. `null` counts as absent, and fields that are not named here are ignored, but for those of OpenAI, vLLM \
    and llama-server that would change the answer and are not built (`tools`, `suffix`, `bad_words`, …): these are a 400 that \
    names them.";

/// Which keys a daemon asks for.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    /// For generation and scoring.
    pub(crate) api_key: bool,
    /// For versions and training.
    pub(crate) admin_key: bool,
}

/// The document, JSON; made once for each kind of daemon.
pub(crate) fn document(needs: Needs) -> &'static str {
    static DOCUMENTS: [OnceLock<String>; 4] = [const { OnceLock::new() }; 4];
    let which = usize::from(needs.api_key) + 2 * usize::from(needs.admin_key);
    DOCUMENTS[which].get_or_init(|| super::json(&build(needs)))
}

fn build(needs: Needs) -> OpenApi {
    let mut paths = Paths::new();
    let mut schemas: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    for route in routes::all() {
        let (path, method) = (route.path, route.method.clone());
        let (operation, named) = route.finish(needs);
        schemas.extend(named);
        let item = PathItem::new(method, operation);
        match paths.paths.get_mut(path) {
            Some(known) => known.merge_operations(item),
            None => drop(paths.paths.insert(path.to_owned(), item)),
        }
    }
    let mut info = Info::new("honed", env!("CARGO_PKG_VERSION"));
    info.description = Some(ABOUT.to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components(schemas))).build()
}

fn components(schemas: BTreeMap<String, RefOr<Schema>>) -> Components {
    let about = "A line of `daemon.api_keys_file`, or of `daemon.admin_keys_file` for the admin routes, or a key of \
        `HONED_API_KEYS` or `HONED_ADMIN_KEYS`.";
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(about)).build();
    let components = ComponentsBuilder::new().security_scheme("key", SecurityScheme::Http(key));
    components.schemas_from_iter(schemas).build()
}
