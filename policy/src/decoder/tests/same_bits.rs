//! A token's logits are the same bits whatever is computed beside it.

use candle_core::{Device, quantized::GgmlDType};
use tempfile::TempDir;

use super::{context, entries, largest_difference, limits, one_by_one, shape, tokens, write};
use crate::{
    checkpoint::Checkpoint,
    decoder::{Entry, Limits},
    token::TokenId,
};

/// Goal: keys and values in f16 cost what f16 does, and no more.
#[test]
fn a_cache_in_f16_is_close() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F16);
    let (tokens, mut contexts) =
        (tokens(50), [true, false].map(|is_f32| context(&path, Limits { is_f32, ..limits(1) })));
    let rows = contexts.each_mut().map(|context| one_by_one(context, 0, &tokens));
    let difference = largest_difference(&rows[0], &rows[1]);
    assert!(difference > 0.0 && difference < 1e-2, "{difference}");
}

/// Goal: a token's logits are the same bits alone and in a batch, in one chunk and in many, on one thread and on three, computed,
/// copied and taken back. Method: a sequence of 70 tokens, three pages, in each of these ways.
#[test]
fn bits_depend_on_the_sequence_alone() {
    let folder = TempDir::new().unwrap();
    for kind in [GgmlDType::F16, GgmlDType::Q8_0] {
        let path = write(&folder, &shape(), kind);
        let all = tokens(70);
        let want = one_by_one(&mut context(&path, limits(1)), 0, &all);
        for n_threads in [1, 3] {
            let mut context = context(&path, limits(n_threads));
            // In chunks of 23, beside another sequence that is a token ahead.
            context.compute(&entries(2, 0, &all[3..4]), false);
            for (i, chunk) in all.chunks(23).enumerate() {
                let mut batch = entries(2, 1 + i, &all[9 + i..10 + i]);
                batch.extend(entries(0, i * 23, chunk));
                context.compute(&batch, false);
                for k in 0..chunk.len() {
                    assert_eq!(context.logits(1 + k), want[i * 23 + k], "{kind:?}, token {}", i * 23 + k);
                }
            }
            // Another one begins with what it held, in the middle of a page, and goes on; so does the first.
            context.copy(0, 1, 41);
            let mut batch = entries(0, 70, &all[..2]);
            batch.extend(entries(1, 41, &all[41..60]));
            context.compute(&batch, false);
            assert_eq!(context.logits(2 + 18), want[59], "{kind:?}: after a copy");
            // What is kept outlives the sequence, and is not what others write.
            let state = context.state(1);
            context.cut(1, 0);
            context.compute(&entries(1, 0, &all[20..40]), false);
            context.set(3, &state);
            context.compute(&entries(3, 60, &all[60..]), false);
            assert_eq!(context.logits(9), want[69], "{kind:?}: taken back");
            context.cut(3, 33);
            context.compute(&entries(3, 33, &all[33..34]), false);
            assert_eq!(context.logits(0), want[33], "{kind:?}: cut");
        }
    }
}

/// Goal: only the rows that are asked for are computed to the end, and they are what they are among all.
#[test]
fn rows_that_nobody_asks_for_change_nothing() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F32);
    let all = tokens(20);
    let want = one_by_one(&mut context(&path, limits(1)), 0, &all);
    let mut context = context(&path, limits(2));
    let mut batch = entries(0, 0, &all);
    batch.iter_mut().enumerate().for_each(|(i, entry)| entry.gives_logits = i == 4 || i == 19);
    context.compute(&batch, false);
    assert_eq!((context.logits(4), context.logits(19)), (&want[4][..], &want[19][..]));
    batch = entries(0, 20, &all[..5]);
    batch.iter_mut().for_each(|entry| entry.gives_logits = false);
    context.compute(&batch, false);
    context.compute(&entries(1, 0, &all[..1]), false);
    assert_eq!(context.logits(0), want[0]);
}

/// Goal: no token reaches one before it, not even one that is no number. Method: a token whose embedding is none, in one tile with
/// those before it.
#[test]
fn a_token_that_is_no_number_spoils_none_before_it() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F32);
    let mut file = Checkpoint::read(&path).unwrap();
    let table = file.tensors.get_mut("token_embd.weight").unwrap();
    let mut rows: Vec<Vec<f32>> = table.to_vec2().unwrap();
    // Not among the first seventy.
    rows[5].fill(f32::NAN);
    *table = candle_core::Tensor::new(rows, &Device::Cpu).unwrap();
    file.write(&path).unwrap();
    let mut all = tokens(38);
    let want = one_by_one(&mut context(&path, limits(1)), 0, &all);
    for at in [30, 33, 37] {
        all[at] = TokenId(5);
        let mut context = context(&path, limits(2));
        context.compute(&entries(0, 0, &all), false);
        assert!((0..at).all(|i| context.logits(i) == want[i]), "spoilt at {at}");
        assert!((at..38).all(|i| context.logits(i).iter().all(|logit| logit.is_nan())));
        // Nor does it stay in the memory that others are given next.
        context.cut(0, 0);
        all[at] = tokens(38)[at];
        context.compute(&entries(1, 0, &all), false);
        assert!((0..38).all(|i| context.logits(i) == want[i]), "spoilt by what was there before");
    }
}

/// Goal: pages come back, whoever held them last. Method: a context that has no page to spare, through many copies, cuts and states.
#[test]
fn pages_are_never_lost() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F16);
    let mut context = context(&path, Limits { n_kept: 64, n_wanted: 1, ..limits(1) });
    let last = |mut batch: Vec<Entry>| {
        let n = batch.len();
        batch.iter_mut().enumerate().for_each(|(i, entry)| entry.gives_logits = i + 1 == n);
        batch
    };
    let before = context.untaken_bytes();
    for _ in 0..5 {
        context.compute(&last(entries(0, 0, &tokens(50))), true);
        let kept = context.state(0);
        for i in 1..4 {
            context.copy(0, i, 40);
            context.compute(&last(entries(i, 40, &tokens(64))), true);
            context.compute(&last(entries(i, 104, &tokens(24))), true);
        }
        context.compute(&last(entries(0, 50, &tokens(64))), true);
        context.set(2, &kept);
        context.compute(&last(entries(2, 50, &tokens(64))), true);
        (0..4).for_each(|i| context.cut(i, 0));
        drop(kept);
    }
    // Four sequences of four pages, and two that are kept, beside what passes work with.
    let pass = Limits { n_kept: 64, n_wanted: 1, ..limits(1) }.footprint(&shape()).pass;
    assert!(before > context.untaken_bytes() && context.untaken_bytes() >= pass);
}
