//! The slow twin: a Llama forward pass in f64 with plain loops, written from the papers, as judge of trainer and engine.

use candle_core::DType;
use policy::{TokenId, architecture::Shape, checkpoint::Checkpoint};

type Row = Vec<f64>;

/// Log-probability of every token after the first, nats.
pub(crate) fn log_probs(checkpoint: &Checkpoint, shape: &Shape, tokens: &[TokenId]) -> Vec<f64> {
    let table = matrix(checkpoint, "token_embd.weight");
    let mut x: Vec<Row> = tokens.iter().map(|t| table[t.0 as usize].clone()).collect();
    for layer in 0..shape.n_layers {
        let weight = |what: &str| matrix(checkpoint, &format!("blk.{layer}.{what}.weight"));
        let normed = norm(&x, &weight("attn_norm")[0], shape);
        let turned = |what: &str| -> Vec<Row> {
            let rows = product(&normed, &weight(what));
            rows.into_iter().enumerate().map(|(p, row)| turn(row, p, checkpoint, shape)).collect()
        };
        let mixed = attend(&turned("attn_q"), &turned("attn_k"), &product(&normed, &weight("attn_v")), shape);
        add(&mut x, &product(&mixed, &weight("attn_output")));
        let normed = norm(&x, &weight("ffn_norm")[0], shape);
        let (gate, up) = (product(&normed, &weight("ffn_gate")), product(&normed, &weight("ffn_up")));
        let act: Vec<Row> = gate
            .iter()
            .zip(&up)
            .map(|(g, u)| g.iter().zip(u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect())
            .collect();
        add(&mut x, &product(&act, &weight("ffn_down")));
    }
    let hidden = norm(&x, &matrix(checkpoint, "output_norm.weight")[0], shape);
    let head = if shape.tied { table } else { matrix(checkpoint, "output.weight") };
    let logits = product(&hidden, &head);
    let log_sum = |row: &Row| row.iter().map(|z| z.exp()).sum::<f64>().ln();
    tokens[1..].iter().zip(&logits).map(|(t, row)| row[t.0 as usize] - log_sum(row)).collect()
}

fn matrix(checkpoint: &Checkpoint, name: &str) -> Vec<Row> {
    let tensor = checkpoint.tensors[name].to_dtype(DType::F64).unwrap();
    let tensor = if tensor.rank() == 1 { tensor.unsqueeze(0).unwrap() } else { tensor };
    tensor.to_vec2().unwrap()
}

fn product(x: &[Row], weight: &[Row]) -> Vec<Row> {
    let dot = |a: &Row, b: &Row| a.iter().zip(b).map(|(a, b)| a * b).sum();
    x.iter().map(|x| weight.iter().map(|w| dot(x, w)).collect()).collect()
}

fn norm(x: &[Row], gain: &Row, shape: &Shape) -> Vec<Row> {
    x.iter()
        .map(|x| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            let s = 1.0 / (mean + f64::from(shape.norm_eps)).sqrt();
            x.iter().zip(gain).map(|(v, g)| v * s * g).collect()
        })
        .collect()
}

fn turn(mut row: Row, position: usize, checkpoint: &Checkpoint, shape: &Shape) -> Row {
    let factors = checkpoint.tensors.get("rope_freqs.weight").map(|t| t.to_vec1::<f32>().unwrap());
    for head in row.chunks_mut(shape.head_dim) {
        for i in 0..shape.rope_dims / 2 {
            let frequency = f64::from(shape.rope_theta).powf(-2.0 * i as f64 / shape.rope_dims as f64);
            let factor = factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
            let angle = position as f64 * f64::from(shape.rope_scale) * frequency / factor;
            let (a, b) = (head[2 * i], head[2 * i + 1]);
            head[2 * i] = a * angle.cos() - b * angle.sin();
            head[2 * i + 1] = a * angle.sin() + b * angle.cos();
        }
    }
    row
}

fn attend(q: &[Row], k: &[Row], v: &[Row], shape: &Shape) -> Vec<Row> {
    let (d, group) = (shape.head_dim, shape.n_heads / shape.n_kv_heads);
    let mut out = vec![vec![0.0; shape.n_heads * d]; q.len()];
    for i in 0..q.len() {
        for h in 0..shape.n_heads {
            let kv = h / group * d;
            let score = |j: usize| (0..d).map(|c| q[i][h * d + c] * k[j][kv + c]).sum::<f64>() / (d as f64).sqrt();
            let weights: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (j, weight) in weights.iter().enumerate() {
                (0..d).for_each(|c| out[i][h * d + c] += weight / sum * v[j][kv + c]);
            }
        }
    }
    out
}

fn add(x: &mut [Row], y: &[Row]) {
    x.iter_mut().zip(y).for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
}
