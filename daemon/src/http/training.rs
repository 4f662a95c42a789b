//! training
use super::error::ApiError;
pub(crate) async fn get() -> Result<&'static str, ApiError> {
    Ok("")
}
pub(crate) async fn pause() -> Result<&'static str, ApiError> {
    Ok("")
}
pub(crate) async fn resume() -> Result<&'static str, ApiError> {
    Ok("")
}
pub(crate) async fn step() -> Result<&'static str, ApiError> {
    Ok("")
}
