//! A file of texts: JSON lines with a `text` each, as TRL reads them, or plain text with blank lines between documents.

use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// The documents of a file, in its order. A file whose first character is `{` is JSON lines throughout: guessing line by
/// line would train on the braces of a broken one.
///
/// # Errors
/// The number of the first line that is not an object with a `text`.
pub(crate) fn documents(file: &str) -> Result<Vec<String>, String> {
    if !file.trim_start().starts_with('{') {
        return Ok(paragraphs(file));
    }
    let lines = (1..).zip(file.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(n, line): (usize, &str)| {
            let parsed: Result<Line, _> = serde_json::from_str(line);
            parsed.map(|line| line.text).map_err(|error| format!("line {n}: expected {{\"text\": \"…\"}}, got {error}"))
        })
        .collect()
}

fn paragraphs(file: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in file.lines() {
        let open = documents.last_mut().expect("one was begun before the first line");
        match (line.trim().is_empty(), open.is_empty()) {
            (true, false) => documents.push(String::new()),
            (true, true) => {}
            (false, true) => open.push_str(line),
            (false, false) => {
                open.push('\n');
                open.push_str(line);
            }
        }
    }
    documents.retain(|document| !document.is_empty());
    documents
}

#[cfg(test)]
mod tests {
    use super::documents;

    #[test]
    fn both_forms_are_read_and_a_broken_line_is_named() {
        let lines = "{\"text\": \"one\\ntwo\"}\n\n{\"text\": \"three\", \"source\": 7}\n";
        assert_eq!(documents(lines).unwrap(), vec!["one\ntwo", "three"]);
        assert_eq!(documents("one\ntwo\n \n\n\nthree").unwrap(), vec!["one\ntwo", "three"]);
        assert_eq!(documents("").unwrap(), Vec::<String>::new());
        let error = documents("{\"text\": \"one\"}\n{\"txt\": 1}").unwrap_err();
        assert!(error.contains("line 2") && error.contains("text"), "{error}");
    }
}
