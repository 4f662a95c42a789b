use super::*;
use crate::{
    causal_lm::CausalLm,
    kernels::{Operations, Precision},
    scalar_model::ScalarModel,
    transformer::{
        Keep,
        tests::{
            TEMPERATURES, batch, check_differences, check_scalar_differences, close, gradients_of, gradients_on_tape,
            loss_of, tiny, uneven_checkpoint,
        },
    },
};

const LORA: LoraShape = LoraShape { rank: 3, alpha: 6.0 };

fn base(tied: bool) -> Checkpoint {
    uneven_checkpoint(&Shape { tied, ..tiny() }, 21)
}

/// An adapter whose B is not zero, as if it had learnt.
fn learnt(seed: u64) -> Adapter {
    let adapter = Adapter::new(&tiny(), LORA, seed, &Device::Cpu).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed + 1);
    for (_, var) in adapter.parameters.iter().filter(|(name, _)| name.ends_with(SUFFIXES[1])) {
        var.set(&Tensor::from_vec(normal(&mut rng, 0.2, var.elem_count()), var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    adapter
}

fn policy(tied: bool) -> CausalLm {
    CausalLm::from_checkpoint(&base(tied), &Device::Cpu).unwrap()
}

#[test]
fn a_new_adapter_changes_no_bit_and_a_learnt_one_does() {
    let plain = policy(true);
    let read = |lm: &CausalLm| lm.frozen_log_probs(&batch(), &TEMPERATURES).unwrap();
    let new = Adapter::new(&tiny(), LORA, 1, &Device::Cpu).unwrap();
    assert_eq!(read(&plain.clone().with_adapter(new)), read(&plain));
    assert_ne!(read(&plain.clone().with_adapter(learnt(1))), read(&plain));
}

/// Goal: the explicit backward through adapters is right, and reaches them alone. Method: candle's tape, plain and with our CUDA
/// kernels, emulated; checkpointing must give the same bits.
#[test]
fn the_explicit_backward_equals_the_tape() {
    for tied in [true, false] {
        let model = policy(tied).with_adapter(learnt(2));
        let ours = gradients_of(&model);
        for operations in [Operations::Plain, Operations::emulated(Precision::F32)] {
            close(&ours, &gradients_on_tape(&model, operations), model.parameters(), 2e-5);
        }
        assert!(ours.iter().all(|(name, _)| model.parameters().contains_key(name)), "the base is frozen");
        let again = gradients_of(&model.with_keep(Keep::Inputs));
        for (name, gradient) in ours.iter() {
            assert_eq!(gradient.to_vec().unwrap(), again.get(name).unwrap().to_vec().unwrap(), "{name}");
        }
    }
}

#[test]
fn gradients_of_a_policys_adapter_are_finite_differences() {
    let model = policy(false).with_adapter(learnt(3));
    check_differences(model.parameters(), &gradients_of(&model), || loss_of(&model));
}

/// The same for a value model and a reward model beside the policy's weights.
#[test]
fn gradients_of_a_scalar_models_adapter_are_finite_differences() {
    let model = ScalarModel::beside(&policy(true), learnt(4)).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for name in [crate::scalar_model::HEAD_WEIGHT, crate::scalar_model::HEAD_BIAS] {
        let var = &model.parameters()[name];
        let head = Tensor::from_vec(normal(&mut rng, 0.5, var.elem_count()), var.dims(), &Device::Cpu).unwrap();
        var.set(&head).unwrap();
    }
    check_scalar_differences(&model);
}

#[test]
fn models_beside_one_base_share_its_memory() {
    let plain = policy(true);
    let (a, b) = (plain.clone().with_adapter(learnt(5)), ScalarModel::beside(&plain, learnt(6)).unwrap());
    let storage = |var: &Var| std::ptr::from_ref(&*var.as_tensor().storage_and_layout().0).addr();
    for (name, var) in plain.trunk().parameters() {
        assert_eq!(storage(var), storage(&a.trunk().parameters()[name]), "{name}");
        assert_eq!(storage(var), storage(&b.trunk().parameters()[name]), "{name}");
    }
}

/// Goal: a file brings an adapter back, and merging it gives the same model. Method: log-probs of all three.
#[test]
fn a_file_and_a_merged_model_say_what_the_adapter_says() {
    let base = base(true);
    let model = policy(true).with_adapter(learnt(7));
    let read = |lm: &CausalLm| lm.frozen_log_probs(&batch(), &TEMPERATURES).unwrap().log_probs;
    let bytes = model.to_checkpoint(&base, crate::checkpoint::WeightType::Source).unwrap().to_bytes().unwrap();
    let file = Checkpoint::from_bytes(&bytes).unwrap();
    let again = Adapter::from_checkpoint(&file, &tiny(), &Device::Cpu).unwrap();
    assert_eq!(again.shape(), LORA);
    assert_eq!(read(&policy(true).with_adapter(again)), read(&model));
    let whole = CausalLm::from_checkpoint(&merged(&base, &file).unwrap(), &Device::Cpu).unwrap();
    for (a, b) in read(&whole).iter().zip(read(&model)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn what_does_not_fit_the_model_is_refused_by_name() {
    let file = learnt(8).to_checkpoint(&base(true).metadata).unwrap();
    let refused = |change: &dyn Fn(&mut Checkpoint)| {
        let mut file = file.clone();
        change(&mut file);
        Adapter::from_checkpoint(&file, &tiny(), &Device::Cpu).err().map(|error| error.to_string()).unwrap()
    };
    let zeros = |dims: (usize, usize)| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let name = "blk.1.ffn_up.weight.lora_b";
    assert!(refused(&|file| drop(file.tensors.remove(name))).contains(name));
    assert!(refused(&|file| drop(file.tensors.insert(name.to_owned(), zeros((5, 3))))).contains(name));
    let stranger = "output.weight.lora_a";
    assert!(refused(&|file| drop(file.tensors.insert(stranger.to_owned(), zeros((3, 16))))).contains(stranger));
    assert!(refused(&|file| *file = base(true)).contains("whole model"));
    assert!(Adapter::new(&tiny(), LoraShape { rank: 0, alpha: 1.0 }, 0, &Device::Cpu).is_err());
}
