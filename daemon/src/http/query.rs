//! Query strings, with errors that name the field. Our values are words and numbers, so nothing needs percent-decoding.

use super::error::ApiError;

/// `a=1&b=2`.
pub(crate) struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    /// Splits; a part without `=` has an empty value.
    pub(crate) fn parse(text: &'a str) -> Query<'a> {
        Query(
            text.split('&')
                .filter(|part| !part.is_empty())
                .map(|part| part.split_once('=').unwrap_or((part, "")))
                .collect(),
        )
    }

    /// The last value of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// A number from 0 to `max`.
    pub(crate) fn number(&self, name: &str, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| *number <= max);
        number.map(Some).ok_or_else(|| ApiError::invalid(name, format!("`{name}` must be an integer in 0..={max}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_numbers_are_named() {
        for wrong in ["limit=", "limit=-1", "limit=x", "limit=1001", "limit"] {
            assert!(Query::parse(wrong).number("limit", 1000).is_err(), "{wrong}");
        }
        assert!(matches!(Query::parse("a=1&limit=7").number("limit", 1000), Ok(Some(7))));
    }
}
