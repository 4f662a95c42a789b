//! `report.html`: what happened, on one page that needs nothing but a browser.

mod chart;
mod page;

pub(crate) use chart::{Chart, HEIGHT, Series, WIDTH};
pub(super) use page::render;
pub(crate) use page::{BLUE, GREEN, ORANGE};

/// Text that means nothing to HTML.
pub(crate) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests;
