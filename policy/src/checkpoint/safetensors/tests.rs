use std::io::Cursor;

use super::*;
use crate::transformer::random_checkpoint;

/// A file of two tensors, its header as given.
fn file(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 24]].concat()
}

const GOOD: &str = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
    "y":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}}"#;

fn read(bytes: &[u8]) -> Result<Header, Malformed> {
    Header::read(&mut &*bytes, bytes.len() as u64)
}

#[test]
fn a_good_file_shows_its_places() {
    let header = read(&file(GOOD)).unwrap();
    let y = &header.tensors["y"];
    assert_eq!((y.dtype, y.dims.as_slice(), y.n_bytes), (DType::BF16, [4].as_slice(), 8));
    assert_eq!((header.metadata["a"].as_str(), y.start), ("b", 8 + GOOD.len() as u64 + 16));
}

#[test]
fn what_does_not_add_up_is_refused() {
    let cases = [
        ("F32", "F8_E4M3", "expected F32, F16 or BF16"),
        ("[2,2]", "[2,3]", "expected 24 bytes"),
        ("[2,2]", "[0]", "none of a tensor"),
        ("[2,2]", "[4294967296,4294967296]", "none of a tensor"),
        ("[2,2]", "[-2,-2]", "a list of counts"),
        ("[0,16]", "[16,0]", "expected 16 bytes"),
        ("[0,16]", "[0,16,3]", "expected 16 bytes"),
        ("[16,24]", "[8,16]", "a gap or an overlap"),
        ("[16,24]", "[17,25]", "not inside the file"),
        ("\"y\"", "\"x\"", "there twice"),
        ("{\"a\":\"b\"}", "{\"a\":1}", "expected a text"),
        ("\"x\":{", "\"x\":[{", "its header"),
        ("\"x\":", "\"z\":3,\"x\":", "expected an object"),
    ];
    for (from, to, part) in cases {
        let error = read(&file(&GOOD.replacen(from, to, 1))).map(|_| ()).expect_err(part).to_string();
        assert!(error.contains(part), "{from} {to}: {error:?} does not say {part:?}");
    }
    let whole = file(GOOD);
    for (bytes, part) in [
        (&whole[..7], "cannot be read"),
        (&whole[..40], "a header of"),
        (&whole[..whole.len() - 1], "not inside the file"),
        (&[&whole[..], &[0]].concat(), "end at byte"),
        (&[&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "a header of"),
        (&file("[]"), "neither as a GGUF"),
    ] {
        let error = read(bytes).map(|_| ()).expect_err(part).to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// The names that Hugging Face gives a model's tensors, and its order of rows, written out by loops.
fn exported(model: &Checkpoint, shape: &Shape, digest: &str) -> Vec<u8> {
    let names = [
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    let (mut entries, mut data) = (vec![format!(r#""__metadata__":{{"{TOKENIZER}":"{digest}"}}"#)], Vec::new());
    for (name, tensor) in &model.tensors {
        let other = match name.as_str() {
            "token_embd.weight" => "model.embed_tokens.weight".to_owned(),
            "output_norm.weight" => "model.norm.weight".to_owned(),
            block => {
                let parts: Vec<&str> = block.split('.').collect();
                let what = names.iter().find(|(ours, _)| *ours == parts[2]).unwrap().1;
                format!("model.layers.{}.{what}.weight", parts[1])
            }
        };
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let heads = [(".attn_q.", shape.n_heads), (".attn_k.", shape.n_kv_heads)];
        let n_heads = heads.iter().find(|(part, _)| name.contains(part)).map(|(_, n)| *n);
        let width = tensor.dims().last().unwrap();
        let rows = values.len() / width;
        let row_of = |row: usize| match n_heads {
            None => row,
            Some(n_heads) => {
                let d = rows / n_heads;
                let (head, half, i) = (row / d, row % d / (d / 2), row % (d / 2));
                head * d + 2 * i + half
            }
        };
        let start = data.len();
        for row in 0..rows {
            values[row_of(row) * width..][..*width].iter().for_each(|value| data.extend(value.to_le_bytes()));
        }
        let place = format!(r#"{{"dtype":"F32","shape":{:?},"data_offsets":[{start},{}]}}"#, tensor.dims(), data.len());
        entries.push(format!("{other:?}:{place}"));
    }
    let header = format!("{{{}}}", entries.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// Goal: a model that went out to Hugging Face's names and order comes back bit for bit. Method: an exporter written by loops.
#[test]
fn a_llama_comes_back_from_hugging_faces_order() {
    let shape = Shape::llama(16, 32, 2, 4, 2, 48);
    let model = random_checkpoint(&shape, 3).unwrap();
    let bytes = exported(&model, &shape, "digest");
    let header = read(&bytes).unwrap();
    let sft = random_checkpoint(&shape, 4).unwrap();
    let version = as_version(&mut Cursor::new(&bytes), &header, &sft, "digest").unwrap();
    assert_eq!(version.to_bytes().unwrap(), model.to_bytes().unwrap());
    let refused = |header: &Header, digest| {
        as_version(&mut Cursor::new(&bytes), header, &sft, digest).map(drop).unwrap_err().to_string()
    };
    assert!(refused(&header, "other").contains(TOKENIZER));
    let mut lacking = header.clone();
    lacking.tensors.remove("model.norm.weight");
    assert!(refused(&lacking, "digest").contains("output_norm.weight of version 0 is missing"));
    let mut strange = header.clone();
    let bias = strange.tensors["model.norm.weight"].clone();
    strange.tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
    assert!(refused(&strange, "digest").contains("none of a Llama"));
}
