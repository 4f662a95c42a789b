//! Each CUDA kernel against its plain twin: on the emulation in any order of threads and blocks, and on a GPU where there is
//! one (`cargo test --workspace --lib --features policy/cuda-trainer -- --ignored on_gpu`).

use candle_core::{Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{emulation::Emulation, launch::Kernel, *};
use crate::{
    kernels::{Precision, Rotation, matrix::Number, plain},
    sequence_batch::Packed,
    token::TokenId,
    transformer::AttentionShape,
};

/// Everything that a check has computed, to be held against another run bit by bit.
type Outputs = Vec<Vec<f32>>;

fn assert_same_bits(runs: &[Outputs]) {
    let bits = |run: &Outputs| run.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(!bits(&runs[0]).is_empty());
    assert!(runs.iter().all(|run| bits(run) == bits(&runs[0])), "a kernel depends on the order of its threads");
}

fn on_emulation(check: fn(Machine) -> Outputs) {
    assert_same_bits(&[0, 1, 2].map(|schedule| check(Machine::emulated(schedule))));
}

fn on_gpu(check: fn(Machine) -> Outputs) {
    let device = crate::kernels::device("cuda:0").unwrap();
    let machine = Machine::of(&device).unwrap().unwrap();
    assert_same_bits(&[check(machine), check(machine)]);
}

/// Declares one test on the emulation and one on a GPU for each check.
macro_rules! twins {
    ($($name:ident by $check:ident;)*) => {
        $(
            #[test]
            fn $name() {
                on_emulation($check);
            }
        )*

        mod on_gpu {
            $(
                #[test]
                #[ignore = "needs a GPU"]
                fn $name() {
                    super::on_gpu(super::$check);
                }
            )*
        }
    };
}

twins! {
    rms_norm_equals_its_twin by check_rms_norm;
    rope_equals_its_twin by check_rope;
    swiglu_equals_its_twin by check_swiglu;
    a_layer_equals_its_twin by check_linear;
    a_layer_in_bf16_rounds_its_factors_alone by check_rounded_linear;
    rows_equal_their_twin by check_rows;
    attention_equals_its_twin by check_attention;
    attention_of_wide_heads_equals_its_twin by check_wide_attention;
    log_probs_equal_their_twins by check_log_probs;
    log_probs_in_bf16_are_of_rounded_factors by check_rounded_log_probs;
    log_probs_survive_logits_that_overflow_an_exponential by check_large_logits;
    squares_are_summed by check_squares;
    not_a_number_is_passed_on_and_stays_in_its_sequence by check_not_a_number;
}

type Compute<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The value, and the gradients of Σ weights·value in every argument, on this device.
fn tape(device: &Device, arguments: &[Tensor], weights: &Tensor, compute: Compute<'_>) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = arguments.iter().map(|x| Var::from_tensor(&x.to_device(device).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let value = compute(&tensors).unwrap();
    let store = (&value * weights.to_device(device).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    (value, vars.iter().map(|var| store.get(var).unwrap().clone()).collect())
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that two tensors agree, relative to the largest number of the second.
fn close(got: &Tensor, want: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (numbers(got), numbers(want));
    let scale = want.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    let difference = |(g, w): (&f32, &f32)| (g - w).abs() / scale;
    let worst = got.iter().zip(&want).map(difference).fold(0.0f32, |m, d| if d.is_nan() { f32::NAN } else { m.max(d) });
    assert!(worst < tolerance, "{what} differs by {worst}");
}

fn random(seed: u64, dims: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Holds ours on the machine to the plain one on the processor: value and gradients, with weights that differ.
fn compare(machine: Machine, arguments: &[Tensor], ours: Compute<'_>, twin: Compute<'_>) -> Outputs {
    let shape = twin(arguments).unwrap();
    let weights = random(77, shape.dims());
    let (value, slopes) = tape(&machine.device(), arguments, &weights, ours);
    let (want, want_slopes) = tape(&Device::Cpu, arguments, &weights, twin);
    close(&value, &want, 5e-6, "value");
    for (i, (got, want)) in slopes.iter().zip(&want_slopes).enumerate() {
        close(got, want, 2e-5, &format!("gradient {i}"));
    }
    std::iter::once(&value).chain(&slopes).map(numbers).collect()
}

fn check_rms_norm(machine: Machine) -> Outputs {
    let of = |rows: usize, width: usize| {
        let arguments = [random(1, &[rows, width]), random(2, &[width])];
        let ours = |x: &[Tensor]| rms_norm(machine, &x[0], &x[1], 1e-5);
        compare(machine, &arguments, &ours, &|x| plain::rms_norm(&x[0], &x[1], 1e-5))
    };
    [of(9, 40), of(131, 150), of(1, 1)].concat()
}

fn check_swiglu(machine: Machine) -> Outputs {
    let arguments = [random(3, &[6, 137]), random(4, &[6, 137])];
    compare(machine, &arguments, &|x| swiglu(machine, &x[0], &x[1]), &|x| plain::swiglu(&x[0], &x[1]))
}

fn check_linear(machine: Machine) -> Outputs {
    let arguments = [random(16, &[5, 33]), random(17, &[9, 33])];
    let ours = |x: &[Tensor]| linear(machine, &x[0], &x[1], Precision::F32);
    let outputs = compare(machine, &arguments, &ours, &|x| plain::linear(&x[0], &x[1]));
    let frozen = arguments[1].to_device(&machine.device()).unwrap();
    let x = Var::from_tensor(&arguments[0].to_device(&machine.device()).unwrap()).unwrap();
    let slopes = linear(machine, &x, &frozen, Precision::F32).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(slopes.get(&x).is_some() && slopes.get(&frozen).is_none(), "frozen weights have no gradient");
    outputs
}

/// How far a product of rounded factors may be from what a machine makes of it: a GPU may leave them as they are.
fn tolerance(machine: Machine) -> f32 {
    if matches!(machine, Machine::Emulated(_)) { 5e-6 } else { 2e-2 }
}

/// Rounded to bf16.
fn near(x: &Tensor) -> Tensor {
    let rounded: Vec<f32> = numbers(x).into_iter().map(|x| half::bf16::near(x).to_f32()).collect();
    Tensor::from_vec(rounded, x.dims(), &Device::Cpu).unwrap()
}

/// Goal: in bf16 the factors of all three products are rounded, gradients that come in among them, and nothing else. Method: by
/// candle's products of rounded numbers.
fn check_rounded_linear(machine: Machine) -> Outputs {
    let (x, weight, g) = (random(18, &[5, 33]), random(19, &[9, 33]), random(20, &[5, 9]));
    let (value, slopes) =
        tape(&machine.device(), &[x.clone(), weight.clone()], &g, &|x| linear(machine, &x[0], &x[1], Precision::Bf16));
    let [x, weight, g] = [&x, &weight, &g].map(near);
    let tolerance = tolerance(machine);
    close(&value, &plain::linear(&x, &weight).unwrap(), tolerance, "value");
    close(&slopes[0], &g.matmul(&weight).unwrap(), tolerance, "gradient of the rows");
    close(&slopes[1], &g.t().unwrap().matmul(&x).unwrap(), tolerance, "gradient of the weights");
    std::iter::once(&value).chain(&slopes).map(numbers).collect()
}

/// Sequences of these lengths.
fn packed(lengths: &[usize]) -> Packed {
    let rows: Vec<Vec<TokenId>> = lengths.iter().map(|&n| vec![TokenId(0); n]).collect();
    Packed::new(rows.iter().map(Vec::as_slice))
}

fn check_rope(machine: Machine) -> Outputs {
    let packed = packed(&[3, 1, 5]);
    let of = |frequencies: &[f32]| {
        let rotation = Rotation::new(&packed.positions, frequencies, 6);
        let shape = AttentionShape { n_heads: 3, n_kv_heads: 1, head_dim: 6 };
        let batch = Batch::new(machine, &packed, &rotation, shape).unwrap();
        compare(machine, &[random(5, &[9, 18])], &|x| batch.rope(&x[0]), &|x| plain::rope(&x[0], &rotation))
    };
    // All pairs turn, or the first two of three.
    [of(&[1.0, 0.3, 0.01]), of(&[0.7, 0.1])].concat()
}

fn check_rows(machine: Machine) -> Outputs {
    // One index alone, one so often that its places are cut, two never.
    let mut indices = vec![3, 0, 9];
    indices.extend((0..150).map(|i| if i % 2 == 0 { 7 } else { i % 5 }));
    let twin = |x: &[Tensor]| x[0].index_select(&Tensor::new(indices.as_slice(), x[0].device())?, 0);
    let outputs = compare(machine, &[random(6, &[11, 131])], &|x| rows(machine, &x[0], &indices), &twin);
    let table = random(6, &[11, 2]).to_device(&machine.device()).unwrap();
    assert!(rows(machine, &table, &[11]).is_err(), "a row past the end");
    outputs
}

fn attention_of(machine: Machine, lengths: &[usize], shape: AttentionShape) -> Outputs {
    let packed = packed(lengths);
    let rotation = Rotation::new(&packed.positions, &[1.0], shape.head_dim);
    let batch = Batch::new(machine, &packed, &rotation, shape).unwrap();
    let (n, width, kv_width) = (packed.len(), shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
    let arguments = [random(7, &[n, width]), random(8, &[n, kv_width]), random(9, &[n, kv_width])];
    let ours = |x: &[Tensor]| batch.attention(&x[0], &x[1], &x[2]);
    compare(machine, &arguments, &ours, &|x| plain::attention(&x[0], &x[1], &x[2], &packed, shape))
}

/// Goal: attention is right for every way in which sequences and tiles of 64 can meet. Method: lengths below, at and above a
/// tile and two, grouped queries, a head that fills no vector.
fn check_attention(machine: Machine) -> Outputs {
    let grouped = AttentionShape { n_heads: 4, n_kv_heads: 2, head_dim: 10 };
    let single = AttentionShape { n_heads: 1, n_kv_heads: 1, head_dim: 64 };
    let all = |lengths: &[usize], shape| attention_of(machine, lengths, shape);
    [all(&[5, 1, 65, 64, 33], grouped), all(&[129], single), all(&[1], single)].concat()
}

/// The same for tiles of 32, which heads of more than 64 dimensions have.
fn check_wide_attention(machine: Machine) -> Outputs {
    let odd = AttentionShape { n_heads: 3, n_kv_heads: 1, head_dim: 67 };
    let widest = AttentionShape { n_heads: 1, n_kv_heads: 1, head_dim: 128 };
    let too_wide = AttentionShape { head_dim: 130, ..widest };
    let rotation = Rotation::new(&[0], &[1.0], 130);
    let refused = Batch::new(machine, &packed(&[1]), &rotation, too_wide).err().unwrap().to_string();
    assert!(refused.contains("at most 128 dimensions, got 130"), "{refused}");
    [attention_of(machine, &[33, 1, 32, 7], odd), attention_of(machine, &[70], widest)].concat()
}

const TARGETS: [u32; 5] = [3, 300, 0, 17, 44];
const TEMPERATURES: [f64; 5] = [1.0, 0.5, 2.0, 1.0, 0.7];

fn plain_log_probs(x: &[Tensor]) -> Result<Tensor> {
    let logits = plain::linear(&x[0], &x[1])?;
    let log_probs = plain::log_prob_gather(&logits, &TARGETS, &TEMPERATURES)?;
    Tensor::stack(&[log_probs, plain::entropy(&logits, &TEMPERATURES)?], 0)
}

fn check_log_probs(machine: Machine) -> Outputs {
    // Rows a chunk: two, so that the last is short; and more than there are.
    let of = |chunk_bytes: usize| {
        let arguments = [random(10, &[5, 7]), random(11, &[301, 7])];
        let ours =
            |x: &[Tensor]| log_probs(machine, [&x[0], &x[1]], &TARGETS, &TEMPERATURES, chunk_bytes, Precision::F32);
        compare(machine, &arguments, &ours, &plain_log_probs)
    };
    let (two, all) = (of(2 * 4 * 301), of(1 << 20));
    [two, all].concat()
}

/// Goal: in bf16 the factors of the readout's products are rounded, and logits are f32 still. Method: the plain twin of rounded numbers;
/// its gradients leave out that the slopes of the logits are rounded too.
fn check_rounded_log_probs(machine: Machine) -> Outputs {
    let (arguments, weights) = ([random(21, &[5, 7]), random(22, &[301, 7])], random(23, &[2, 5]));
    let ours = |x: &[Tensor]| log_probs(machine, [&x[0], &x[1]], &TARGETS, &TEMPERATURES, 1 << 20, Precision::Bf16);
    let (value, slopes) = tape(&machine.device(), &arguments, &weights, &ours);
    let (want, want_slopes) = tape(&Device::Cpu, &arguments.each_ref().map(near), &weights, &plain_log_probs);
    close(&value, &want, tolerance(machine), "value");
    slopes.iter().zip(&want_slopes).for_each(|(got, want)| close(got, want, 2e-2, "gradient"));
    std::iter::once(&value).chain(&slopes).map(numbers).collect()
}

fn check_large_logits(machine: Machine) -> Outputs {
    let device = machine.device();
    // Logits 1000, 0, -1000 and minus infinity.
    let weight = Tensor::new(&[[1000.0f32], [0.0], [-1000.0], [f32::NEG_INFINITY]], &device).unwrap();
    let hidden = Tensor::new(&[[1.0f32]; 3], &device).unwrap();
    let read = log_probs(machine, [&hidden, &weight], &[0, 1, 2], &[1.0; 3], 1 << 20, Precision::F32).unwrap();
    let numbers = numbers(&read);
    assert_eq!(numbers, [0.0, -1000.0, -2000.0, 0.0, 0.0, 0.0]);
    vec![numbers]
}

fn check_squares(machine: Machine) -> Outputs {
    let (a, b) = (random(12, &[3, 50_001]), random(13, &[7]));
    let want: f64 = [&a, &b].iter().flat_map(|x| numbers(x)).map(|x| f64::from(x) * f64::from(x)).sum();
    let [a, b] = [a, b].map(|x| x.to_device(&machine.device()).unwrap());
    let got = sum_of_squares(machine, &[&a, &b]).unwrap();
    assert!((got / want - 1.0).abs() < 1e-6, "{got} {want}");
    vec![vec![got as f32]]
}

fn check_not_a_number(machine: Machine) -> Outputs {
    let (packed, device) = (packed(&[3, 2]), machine.device());
    let shape = AttentionShape { n_heads: 1, n_kv_heads: 1, head_dim: 2 };
    let batch = Batch::new(machine, &packed, &Rotation::new(&packed.positions, &[1.0], 2), shape).unwrap();
    let mut q = numbers(&random(14, &[5, 2]));
    q[2] = f32::NAN;
    let q = Tensor::from_vec(q, (5, 2), &device).unwrap();
    let k = random(15, &[5, 2]).to_device(&device).unwrap();
    let mixed = numbers(&batch.attention(&q, &k, &k).unwrap());
    let lost: Vec<usize> = (0..10).filter(|&i| mixed[i].is_nan()).collect();
    assert_eq!(lost, [2, 3], "one query's row");
    let read = numbers(&log_probs(machine, [&q, &k], &[0; 5], &[1.0; 5], 1 << 20, Precision::F32).unwrap());
    assert!(read[1].is_nan() && read[6].is_nan() && read.iter().filter(|x| x.is_nan()).count() == 2, "{read:?}");
    // NaN has several bit patterns, which machines may choose from.
    vec![mixed.into_iter().chain(read).filter(|x| !x.is_nan()).collect()]
}

#[test]
fn the_emulation_knows_every_kernel_and_refuses_other_arguments() {
    for kernel in Kernel::ALL {
        let error = Emulation { schedule: 0 }.run(kernel.name(), [1, 1, 1], (32, 0), &[]).unwrap_err().to_string();
        assert!(error.contains("the arguments are not those that the kernel takes"), "{error}");
    }
    assert!(Emulation { schedule: 0 }.run("no_such_kernel", [1, 1, 1], (32, 0), &[]).is_err());
}

/// Goal: the emulation can be trusted. Method: kernels with one fault each (`faulty.cu`), which it must see.
#[test]
fn the_emulation_sees_faults() {
    let run = |name: &str, schedule: u32, shared_bytes: u32| {
        let mut out = vec![0.0f32; 32];
        let address = launch::Argument::Address(out.as_mut_ptr() as u64);
        let done = Emulation { schedule }.run(name, [1, 1, 1], (32, shared_bytes), &[address]);
        done.map(|()| out).map_err(|error| error.to_string())
    };
    assert!(run("faulty_exit", 0, 0).unwrap_err().contains("never reaches the barrier"));
    assert!(run("faulty_shared", 0, 128).unwrap_err().contains("writes past its shared memory"));
    let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let [one, other] = [0, 1].map(|schedule| bits(run("faulty_race", schedule, 128).unwrap()));
    assert_ne!(one, other, "a missing barrier shows in another order of threads");
    assert!(run("faulty_shared", 0, 132).is_ok(), "with room enough there is no fault");
}
