//! Reading golden files and comparing with them.

use std::{collections::BTreeSet, fs, path::Path};

use candle_core::DType;
use serde_json::Value;

/// One file of cases.
pub(super) struct GoldenFile {
    /// Its `name`.
    pub(super) name: String,
    content: Value,
}

impl GoldenFile {
    /// Reads a file, or fails the test with its name.
    pub(super) fn read(path: &Path) -> GoldenFile {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let content: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = content["name"].as_str().unwrap_or_else(|| panic!("{}: no name", path.display())).to_owned();
        GoldenFile { name, content }
    }

    /// Runs a check on every case, those that stand beside the list included; what was missed.
    pub(super) fn run(&self, check: super::Check) -> Vec<String> {
        let fields = self.content.as_object().into_iter().flatten();
        let beside = fields.filter(|(_, v)| v.get("outputs").is_some()).map(|(kind, v)| (kind.as_str(), v));
        let listed = self.content["cases"].as_array().into_iter().flatten().map(|v| ("case", v));
        let mut wrong = Vec::new();
        let mut n_cases = 0;
        for (kind, content) in beside.chain(listed) {
            let mut case = Case::new(self, kind, content);
            check(&mut case);
            wrong.append(&mut case.finish());
            n_cases += 1;
        }
        if n_cases == 0 {
            wrong.push(format!("{}: no cases", self.name));
        }
        wrong
    }
}

/// One set of inputs with the outputs that they must give.
pub(super) struct Case<'a> {
    /// `case`, or the key of a case that stands beside the list.
    pub(super) kind: &'a str,
    comment: &'a str,
    label: String,
    inputs: &'a Value,
    outputs: &'a Value,
    tolerance_f64: f64,
    tolerance_f32: f64,
    relative: bool,
    /// Outputs that were compared, by their whole path: `loss/token_mean`.
    seen: BTreeSet<String>,
    wrong: Vec<String>,
}

impl<'a> Case<'a> {
    fn new(file: &'a GoldenFile, kind: &'a str, content: &'a Value) -> Case<'a> {
        let tolerance = |key: &str| file.content[key].as_f64().unwrap_or_else(|| panic!("{}: no {key}", file.name));
        let comment = content["comment"].as_str().unwrap_or("no comment");
        Case {
            kind,
            comment,
            label: format!("{} ({comment})", file.name),
            inputs: &content["inputs"],
            outputs: &content["outputs"],
            tolerance_f64: tolerance("tolerance_f64"),
            tolerance_f32: tolerance("tolerance_f32"),
            relative: file.content["compare"].as_str().is_some_and(|c| c.starts_with("relative")),
            seen: BTreeSet::new(),
            wrong: Vec::new(),
        }
    }

    /// What the case says about itself.
    pub(super) fn comment(&self) -> &'a str {
        self.comment
    }

    /// Whether an input of this name is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.inputs.get(key).is_some()
    }

    /// How many numbers an output has.
    pub(super) fn n_wanted(&self, key: &str) -> usize {
        flatten(&self.outputs[key]).len()
    }

    /// An output that says which of several formulas a case is about.
    pub(super) fn output(&self, key: &str) -> f64 {
        self.outputs[key].as_f64().unwrap_or(f64::NAN)
    }

    /// An input as it stands.
    pub(super) fn value(&self, key: &str) -> &'a Value {
        let pointer = format!("/{key}");
        self.inputs.pointer(&pointer).unwrap_or_else(|| panic!("{}: no input {key}", self.label))
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> f64 {
        self.value(key).as_f64().unwrap_or_else(|| panic!("{}: {key} is no number", self.label))
    }

    /// A number, or null.
    pub(super) fn optional(&self, key: &str) -> Option<f64> {
        self.value(key).as_f64()
    }

    /// A whole number that is not negative.
    pub(super) fn whole(&self, key: &str) -> u64 {
        self.value(key).as_u64().unwrap_or_else(|| panic!("{}: {key} is no whole number", self.label))
    }

    /// A word.
    pub(super) fn word(&self, key: &str) -> &'a str {
        self.value(key).as_str().unwrap_or_else(|| panic!("{}: {key} is no word", self.label))
    }

    /// All numbers below a key, in order; true is 1, null is NaN.
    pub(super) fn flat(&self, key: &str) -> Vec<f64> {
        flatten(self.value(key))
    }

    /// The rows below a key.
    pub(super) fn rows(&self, key: &str) -> Vec<Vec<f64>> {
        self.value(key).as_array().into_iter().flatten().map(flatten).collect()
    }

    /// The numbers below a key as truths.
    pub(super) fn mask(&self, key: &str) -> Vec<bool> {
        self.flat(key).into_iter().map(|v| v != 0.0).collect()
    }

    /// The numbers below a key as indices.
    pub(super) fn indices(&self, key: &str) -> Vec<usize> {
        self.flat(key).into_iter().map(|v| v as usize).collect()
    }

    /// The length of every row below a key.
    pub(super) fn lengths(&self, key: &str) -> Vec<usize> {
        self.rows(key).iter().map(Vec::len).collect()
    }

    /// Demands an output within the tolerance for f64; `a/b` looks inside.
    pub(super) fn expect(&mut self, key: &str, got: &[f64]) {
        self.compare(key, got, self.tolerance_f64);
    }

    /// Demands an output within the tolerance for f32.
    pub(super) fn expect_f32(&mut self, key: &str, got: &[f64]) {
        self.compare(key, got, self.tolerance_f32);
    }

    /// Demands an output within the tolerance of the type that it was computed in.
    pub(super) fn expect_as(&mut self, dtype: DType, key: &str, got: &[f64]) {
        match dtype {
            DType::F64 => self.expect(key, got),
            _ => self.expect_f32(key, got),
        }
    }

    /// Demands an output that is made of words.
    pub(super) fn expect_words(&mut self, key: &str, got: &[&str]) {
        self.seen.insert(key.to_owned());
        let want: Vec<&str> = self.outputs[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if want != got {
            self.wrong.push(format!("{}: {key}: expected {want:?}, got {got:?}", self.label));
        }
    }

    /// Leaves an output unchecked, for a reason that stands where this is called.
    pub(super) fn leave(&mut self, key: &str) {
        self.seen.insert(key.to_owned());
    }

    fn compare(&mut self, key: &str, got: &[f64], tolerance: f64) {
        self.seen.insert(key.to_owned());
        let Some(want) = self.outputs.pointer(&format!("/{key}")).map(flatten) else {
            self.wrong.push(format!("{}: no output {key} to compare with", self.label));
            return;
        };
        if want.len() != got.len() {
            self.wrong.push(format!("{}: {key}: expected {} numbers, got {}", self.label, want.len(), got.len()));
            return;
        }
        let is_close = |want: f64, got: f64| {
            let scale = if self.relative { want.abs() } else { 1.0 };
            (want - got).abs() <= tolerance * scale
        };
        let missed = want.iter().zip(got).position(|(want, got)| !is_close(*want, *got));
        if let Some(i) = missed {
            self.wrong.push(format!("{}: {key}[{i}]: expected {}, got {}", self.label, want[i], got[i]));
        }
    }

    fn finish(mut self) -> Vec<String> {
        let mut keys = Vec::new();
        leaves("", self.outputs, &mut keys);
        let unseen = keys.iter().filter(|key| !self.seen.contains(*key));
        self.wrong.extend(unseen.map(|key| format!("{}: nothing checks the output {key}", self.label)));
        self.wrong
    }
}

/// The paths of everything below a value that is no table of others.
fn leaves(path: &str, value: &Value, keys: &mut Vec<String>) {
    match value.as_object() {
        Some(table) => table.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
            leaves(&path, value, keys);
        }),
        None => keys.push(path.to_owned()),
    }
}

/// Every number below a value, in order.
fn flatten(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flatten).collect(),
        Value::Bool(truth) => vec![f64::from(u8::from(*truth))],
        Value::Number(number) => vec![number.as_f64().unwrap_or(f64::NAN)],
        _ => vec![f64::NAN],
    }
}

/// Goal: numbers that nothing checks are noticed wherever they stand. Method: outputs of which one at the top and one in a table
/// are compared; each has a neighbour.
#[test]
fn an_output_that_nothing_checks_is_a_failure() {
    let content = serde_json::json!({
        "name": "00", "tolerance_f64": 1e-9, "tolerance_f32": 1e-5,
        "cases": [{"comment": "c", "inputs": {}, "outputs": {"a": 1, "b": 2, "loss": {"known": [3], "new": [4]}}}],
    });
    let file = GoldenFile { name: "00".to_owned(), content };
    let wrong = file.run(|case| {
        case.expect("a", &[1.0]);
        case.expect("loss/known", &[3.0]);
    });
    assert_eq!(wrong, ["00 (c): nothing checks the output b", "00 (c): nothing checks the output loss/new"]);
}
