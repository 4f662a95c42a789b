//! What black-box tests share: a daemon with a real model, and a client that speaks raw HTTP.

pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod forge;
pub(crate) mod importing;
pub(crate) mod judge;
pub(crate) mod model;
pub(crate) mod process;
pub(crate) mod versions;

pub(crate) use daemon::{Builder, TestDaemon};
