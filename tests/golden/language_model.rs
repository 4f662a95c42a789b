//! 01, 10 and 18: what is read from rows of logits, and the way gradients take back into them. By the oracle, in f64 and in
//! f32, and in f32 by the passes that train on a processor.

use candle_core::{DType, Device, Tensor, Var};
use policy::{
    TokenId, kernels,
    sequence_batch::{Sequence, SequenceBatch},
    sft,
};
use ppo::loss::Aggregation;

use super::{
    numbers::Case,
    said::{Said, double, slopes},
};

/// Logits of padded sequences under gradient, and the sequences without their padding.
pub(super) struct Logits {
    /// `[batch * longest, vocab]`.
    pub(super) var: Var,
    /// Prompts and responses.
    pub(super) batch: SequenceBatch,
    longest: usize,
}

impl Logits {
    /// From the input `key`, `[batch][longest][vocab]`, with `tokens`, `prompt_lens` and `seq_lens`.
    pub(super) fn read(case: &Case<'_>, key: &str, dtype: DType) -> Logits {
        let flat = case.flat(key);
        let (n_sequences, longest) = (case.rows("tokens").len(), case.rows("tokens")[0].len());
        let shape = (n_sequences * longest, flat.len() / (n_sequences * longest));
        let ends = case.indices("prompt_lens").into_iter().zip(case.indices("seq_lens"));
        let sequences = case.rows("tokens").into_iter().zip(ends).map(|(tokens, (prompt_len, len))| Sequence {
            tokens: tokens[..len].iter().map(|t| TokenId(*t as u32)).collect(),
            prompt_len,
        });
        let batch = SequenceBatch::new(sequences.collect());
        Logits { var: variable(flat, shape, dtype), batch, longest }
    }

    /// The rows that predict response tokens, flat, sequence after sequence: `[n_response_tokens, vocab]`.
    pub(super) fn predicting(&self) -> Tensor {
        let inputs = self
            .batch
            .sequences
            .iter()
            .enumerate()
            .flat_map(|(b, sequence)| (0..sequence.tokens.len() - 1).map(move |i| (b * self.longest + i) as u32));
        let packed = select(self.var.as_tensor(), inputs.collect());
        select(&packed, self.batch.prediction_rows())
    }

    /// The log-prob of every response token, flat.
    pub(super) fn log_probs(&self, temperature: f64) -> Tensor {
        let targets: Vec<u32> = self.batch.sequences.iter().flat_map(Sequence::response).map(|t| t.0).collect();
        kernels::plain::log_prob_gather(&self.predicting(), &targets, &vec![temperature; targets.len()]).unwrap()
    }

    /// The same logits as a model says them, and the sequences in its language.
    pub(super) fn said(&self) -> (Said, SequenceBatch) {
        let said = Said::new(&values(self.var.as_tensor()), self.var.dims()[1]);
        let in_its_language = |(b, sequence): (usize, &Sequence)| Sequence {
            tokens: (0..)
                .zip(&sequence.tokens)
                .map(|(i, token)| said.token(b * self.longest + i, token.0 as usize))
                .collect(),
            prompt_len: sequence.prompt_len,
        };
        let batch = SequenceBatch::new(self.batch.sequences.iter().enumerate().map(in_its_language).collect());
        (said, batch)
    }

    /// Response tokens of each sequence.
    pub(super) fn lengths(&self) -> Vec<usize> {
        self.batch.sequences.iter().map(|s| s.response().len()).collect()
    }

    /// The gradient of a scalar in the logits, padding included.
    pub(super) fn gradient(&self, of: &Tensor) -> Vec<f64> {
        let store = of.backward().unwrap();
        values(store.get(self.var.as_tensor()).expect("the logits have a gradient"))
    }
}

fn select(rows: &Tensor, indices: Vec<u32>) -> Tensor {
    rows.index_select(&Tensor::new(indices, &Device::Cpu).unwrap(), 0).unwrap()
}

fn variable(flat: Vec<f64>, shape: (usize, usize), dtype: DType) -> Var {
    let tensor = Tensor::from_vec(flat, shape, &Device::Cpu).unwrap();
    Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
}

/// The numbers of a tensor.
pub(super) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
}

/// Σ_t x_t·c_t with constant c: the surrogate that carries explicit gradients into the model.
pub(super) fn surrogate(x: &Tensor, constant: &[f64]) -> Tensor {
    let constant = Tensor::new(constant, &Device::Cpu).unwrap().to_dtype(x.dtype()).unwrap();
    (x * constant).unwrap().sum_all().unwrap()
}

/// Spreads a flat ragged list over rows of one width, zeros behind.
pub(super) fn padded(flat: &[f64], lengths: &[usize], width: usize) -> Vec<f64> {
    let rows = ppo::masked::split(flat, lengths);
    rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, width - row.len()))).collect()
}

const TYPES: [DType; 2] = [DType::F64, DType::F32];

pub(super) fn log_prob_gather(case: &mut Case<'_>) {
    let (weights, temperature) = (case.rows("weights"), case.number("temperature"));
    let width = weights[0].len();
    let kept = |lengths: &[usize]| -> Vec<f64> {
        weights.iter().zip(lengths).flat_map(|(row, n)| row[..*n].to_vec()).collect()
    };
    let of_type = TYPES.map(|dtype| Logits::read(case, "logits", dtype));
    let mut check = |dtype: DType, lengths: &[usize], flat: &[f64], gradient: &[f64]| {
        let sums: Vec<f64> = ppo::masked::split(flat, lengths).map(|row| row.iter().sum()).collect();
        case.expect_as(dtype, "logprobs", &padded(flat, lengths, width));
        case.expect_as(dtype, "mask", &padded(&vec![1.0; flat.len()], lengths, width));
        case.expect_as(dtype, "seq_logprob", &sums);
        case.expect_as(dtype, "grad_logits_of_weighted_sum", gradient);
    };
    for (dtype, logits) in TYPES.iter().zip(&of_type) {
        let log_probs = logits.log_probs(temperature);
        let gradient = logits.gradient(&surrogate(&log_probs, &kept(&logits.lengths())));
        check(*dtype, &logits.lengths(), &values(&log_probs), &gradient);
    }
    let lengths = of_type[0].lengths();
    let (said, batch) = of_type[0].said();
    let (kept, mut seen) = (kept(&lengths), Vec::new());
    let gradients = said.backward(&batch, temperature, |rows| {
        seen.extend(double(rows.log_probs));
        slopes(&kept[rows.range], &[])
    });
    let gradient = said.in_logits(&gradients);
    check(DType::F32, &lengths, &seen, &gradient);
    check(DType::F32, &lengths, &double(&said.log_probs(&batch, temperature).log_probs), &gradient);
}

pub(super) fn entropy(case: &mut Case<'_>) {
    let (flat, mask) = (case.flat("logits"), case.mask("mask"));
    let shape = (mask.len(), flat.len() / mask.len());
    let kept: Vec<u32> = (0..mask.len()).filter(|t| mask[*t]).map(|t| t as u32).collect();
    let temperature = case.number("temperature");
    let mut check = |dtype: DType, entropies: &[f64], gradient: &[f64]| {
        let mut spread = vec![0.0; mask.len()];
        kept.iter().zip(entropies).for_each(|(t, h)| spread[*t as usize] = *h);
        case.expect_as(dtype, "entropy", &spread);
        case.expect_as(dtype, "mean_entropy", &[entropies.iter().sum::<f64>() / kept.len() as f64]);
        case.expect_as(dtype, "grad_logits_of_mean_entropy", gradient);
    };
    for dtype in TYPES {
        let logits = variable(flat.clone(), shape, dtype);
        let rows = select(logits.as_tensor(), kept.clone());
        let entropies = kernels::plain::entropy(&rows, &vec![temperature; kept.len()]).unwrap();
        let store = entropies.mean_all().unwrap().backward().unwrap();
        check(dtype, &values(&entropies), &values(store.get(logits.as_tensor()).unwrap()));
    }
    let said = Said::new(&flat, shape.1);
    // Whatever the response is: the entropy is of what might have come.
    let after = |row: &u32| Sequence::text(vec![said.token(*row as usize, 0), said.token(*row as usize + 1, 0)]);
    let batch = SequenceBatch::new(kept.iter().map(after).collect());
    let (mean, mut seen) = (vec![1.0 / kept.len() as f64; kept.len()], Vec::new());
    let gradients = said.backward(&batch, temperature, |rows| {
        seen.extend(double(rows.entropies));
        slopes(&vec![0.0; rows.range.len()], &mean[rows.range])
    });
    check(DType::F32, &seen, &said.in_logits(&gradients));
}

pub(super) fn sft_loss(case: &mut Case<'_>) {
    let logits = Logits::read(case, "logits", DType::F64);
    let log_probs = logits.log_probs(1.0);
    let lengths = logits.lengths();
    let n: usize = lengths.iter().sum();
    let aggregation = match case.comment() {
        "token_mean" => Aggregation::TokenMean,
        "seq_mean_token_mean" => Aggregation::SequenceMeanTokenMean,
        other => panic!("unknown aggregation {other}"),
    };
    let coefficients: Vec<f64> = aggregation.coefficients(&vec![true; n], &lengths).iter().map(|c| -c).collect();
    let loss = surrogate(&log_probs, &coefficients);
    let is_target = |sequence: &Sequence, i: usize| (sequence.prompt_len..sequence.tokens.len()).contains(&i);
    let width = case.rows("tokens")[0].len();
    let sequences = &logits.batch.sequences;
    let mask: Vec<f64> =
        sequences.iter().flat_map(|s| (0..width).map(|i| f64::from(u8::from(is_target(s, i))))).collect();
    case.expect("loss_mask_on_target_token", &mask);
    case.expect("n_target_tokens", &[n as f64]);
    case.expect("loss", &values(&loss));
    case.expect("grad_logits", &logits.gradient(&loss));
    if aggregation == Aggregation::TokenMean {
        // What fine-tuning and pretraining text learn by; they know no other mean.
        let (said, batch) = logits.said();
        let (loss, gradients) = sft::loss_and_gradients(said.model(), &batch.sequences, 1024).unwrap();
        case.expect_f32("loss", &[loss]);
        case.expect_f32("grad_logits", &said.in_logits(&gradients));
    }
}
