use candle_core::quantized::GgmlDType;

use super::*;

fn computed_by(weights: GgmlDType, backend: &str) -> Result<&'static str, String> {
    let folder = TempDir::new().unwrap();
    let config = config::Policy { backend: backend.to_owned(), ..config::Config::default().policy };
    let path = Model { weights, ..Model::default() }.write(&folder);
    Engine::start(&config, &path).map(|engine| engine.computed_by()).map_err(|error| error.to_string())
}

/// Goal: every file is computed, by the decoder where it can, and who asks for one of the two gets it or a reason.
#[test]
fn the_backend_is_what_was_asked_for() {
    for weights in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q8_0] {
        for backend in ["auto", "honed"] {
            let by = computed_by(weights, backend).unwrap();
            assert!(by.starts_with("honed's decoder"), "{weights:?} {backend}: {by}");
        }
        assert_eq!(computed_by(weights, "llama.cpp").unwrap(), "llama.cpp");
    }
    assert_eq!(computed_by(GgmlDType::Q4_0, "auto").unwrap(), "llama.cpp");
    let refused = computed_by(GgmlDType::Q4_0, "honed").unwrap_err();
    assert!(refused.contains("policy.backend is \"honed\"") && refused.contains("has type Q4_0"), "{refused}");
}

/// Goal: a model that is no plain Llama goes to llama.cpp and not to a decoder that leaves something out. Method: a file with a bias.
#[test]
fn what_the_decoder_would_leave_out_is_llama_cpps() {
    let folder = TempDir::new().unwrap();
    let path = Model::default().write(&folder);
    let mut file = crate::checkpoint::Checkpoint::read(&path).unwrap();
    let bias = candle_core::Tensor::ones(64, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    file.tensors.insert("blk.0.attn_q.bias".to_owned(), bias);
    file.write(&path).unwrap();
    let config = config::Config::default().policy;
    assert_eq!(Engine::start(&config, &path).unwrap().computed_by(), "llama.cpp");
}

/// Goal: versions that are computed by one and by the other serve side by side, each with its own numbers. Method: the same weights,
/// rounded to four bits in version 1; replays of both.
#[test]
fn both_serve_side_by_side() {
    let test = TestEngine::with(Model::default(), |config| config.backend = "auto".to_owned());
    let path = Model { weights: GgmlDType::Q4_0, ..Model::default() }.write(&test.folder);
    test.engine.load(PolicyVersion(1), &path).unwrap();
    for version in [0, 1, 0] {
        let ask = Ask::exactly(test.tokens("the user"), 20);
        let choice = test.submit(Target::Version(PolicyVersion(version)), ask).unwrap().wait().remove(0);
        let gap = replay_gap(&test.engine, &choice);
        assert!(if version == 0 { gap == 0.0 } else { gap < 2e-2 }, "version {version}: {gap}");
    }
}
