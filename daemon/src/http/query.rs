//! Query strings, with errors that name the field. Our values are words and numbers, so nothing needs percent-decoding.

use std::ops::RangeInclusive;

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

    /// A number in a range.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let rule = || format!("`{name}` must be an integer in {}..={}", range.start(), range.end());
        number.map(Some).ok_or_else(|| ApiError::invalid(name, rule()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_numbers_are_named() {
        for wrong in ["limit=", "limit=0", "limit=-1", "limit=x", "limit=1001", "limit"] {
            assert!(Query::parse(wrong).number("limit", 1..=1000).is_err(), "{wrong}");
        }
        assert!(matches!(Query::parse("a=1&limit=7").number("limit", 1..=1000), Ok(Some(7))));
    }
}
