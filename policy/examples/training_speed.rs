//! Training tokens per second and peak memory for one shape: `training_speed tiny|smol135 [micro_batch_tokens] [lanes]`.
//!
//! One number is a whole optimiser step (forward, backward, clip, AdamW) on random sequences; the first step is left out.

use std::{ops::ControlFlow, time::Instant};

use candle_core::Device;
use policy::{
    TokenId,
    architecture::Shape,
    causal_lm::CausalLm,
    model_error::Result,
    optimizer::{AdamConfig, AdamW, Gradients, accumulate},
    sequence_batch::Sequence,
    sft::{SftOptions, micro_batches, train},
    threads::{learner_pool, prepare_process},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn main() -> Result<()> {
    prepare_process();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("tiny", String::as_str);
    let number = |i: usize, default| {
        arguments
            .get(i)
            .and_then(|a| a.parse().ok())
            .unwrap_or(default)
    };
    let (shape, batch, length, steps) = match name {
        "smol135" => (Shape::llama(49_152, 576, 30, 9, 3, 1536), 8, 128, 2),
        "smol135-short" => (Shape::llama(49_152, 576, 30, 9, 3, 1536), 2, 64, 1),
        _ => (Shape::llama(1024, 160, 4, 4, 2, 448), 32, 64, 20),
    };
    let micro_batch_tokens = number(1, 1024);
    let pool = learner_pool(0)?;
    let lanes = number(2, 0);
    println!(
        "{name}: {:.2} M parameters, {} threads",
        shape.n_parameters() as f64 / 1e6,
        pool.current_num_threads()
    );
    pool.install(|| {
        let model = CausalLm::random(&shape, 0, &Device::Cpu)?;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut sequence = || {
            let n = rng.random_range(length / 2..=length);
            Sequence::text(
                (0..n)
                    .map(|_| TokenId(rng.random_range(0..shape.vocab_size as u32)))
                    .collect(),
            )
        };
        let examples: Vec<Sequence> = (0..batch * (steps + 1)).map(|_| sequence()).collect();
        if lanes == 0 {
            let options = SftOptions {
                epochs: 1,
                batch,
                micro_batch_tokens,
                ..SftOptions::default()
            };
            let mut rates = Vec::new();
            train(&model, &examples, &[], &options, |p| {
                rates.push(p.tokens_per_s);
                ControlFlow::Continue(())
            })?;
            let mean = (rates.len() - 1) as f64 / rates[1..].iter().map(|r| 1.0 / r).sum::<f64>();
            println!("{mean:.0} training tokens/s");
        } else {
            by_hand(&model, &examples, batch, micro_batch_tokens, lanes)?;
        }
        println!("peak RSS {} MiB", peak_rss_mib());
        Ok(())
    })
}

fn by_hand(
    model: &CausalLm,
    examples: &[Sequence],
    batch: usize,
    micro_batch_tokens: usize,
    lanes: usize,
) -> Result<()> {
    let mut adam = AdamW::new(model.parameters(), AdamConfig::default())?;
    let (mut backward, mut update, mut n) = (0.0, 0.0, 0);
    for (i, batch) in examples.chunks(batch).enumerate() {
        let started = Instant::now();
        let micro = micro_batches(batch, micro_batch_tokens, lanes);
        let mut gradients = Gradients::new();
        accumulate(&mut gradients, model.parameters(), &micro, lanes, |micro| {
            let sum = model
                .response_log_probs(micro, &vec![1.0; micro.sequences.len()])?
                .sum_all()?;
            Ok((sum.neg()?, ()))
        })?;
        let half = Instant::now();
        gradients.clip(1.0)?;
        adam.step(&gradients, 1e-4)?;
        if i > 0 {
            backward += (half - started).as_secs_f64();
            update += half.elapsed().as_secs_f64();
            n += batch.iter().map(|s| s.tokens.len()).sum::<usize>();
        }
    }
    println!(
        "{:.0} training tokens/s; forward+backward {backward:.2} s, optimiser {update:.2} s",
        n as f64 / (backward + update)
    );
    Ok(())
}

fn peak_rss_mib() -> i64 {
    // SAFETY: getrusage fills the struct it is given; zeros are a valid value of it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage.ru_maxrss / 1024
    }
}
