use std::time::Instant;
use candle_core::{Device, Tensor};
use daemon::demo::world::*;
use policy::{TokenId, architecture::{Shape, llama}, byte_pair::Bpe, causal_lm::CausalLm, checkpoint::*, optimizer::*, scalar_model::ScalarModel, sequence_batch::*, transformer::{random_checkpoint, Pass}};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
const EOS: TokenId = TokenId(0); const USER: TokenId = TokenId(2); const ASSISTANT: TokenId = TokenId(3);
fn prompt_tokens(b: &Bpe, text: &str, chat: bool) -> Vec<TokenId> {
    if chat { let mut t = vec![USER]; t.extend(b.encode(text)); t.push(ASSISTANT); t } else { b.encode(&format!("{text}\n")) }
}
fn answer_tokens(b: &Bpe, text: &str) -> Vec<TokenId> { let mut t = b.encode(text); t.push(EOS); t }
fn fit(name: &str, model: &CausalLm, steps: usize, lr: f64, mut batch: impl FnMut(usize) -> Vec<Sequence>) {
    let mut adam = AdamW::new(model.parameters(), AdamConfig { eps: 1e-8, ..AdamConfig::default() }).unwrap();
    let t = Instant::now(); let mut tok = 0; let mut avg = 0.0;
    for step in 0..steps {
        let b = SequenceBatch::new(batch(step));
        tok += b.n_tokens();
        let n = b.n_response_tokens() as f64;
        let mut g = Gradients::new();
        let l = accumulate(&mut g, model.parameters(), &[b], 1, |b| {
            let lp = model.response_log_probs(b, &vec![1.0; b.sequences.len()])?;
            let loss = (lp.sum_all()? * (-1.0 / n))?;
            let v = loss.to_scalar::<f32>()?;
            Ok((loss, v))
        }).unwrap()[0];
        g.clip(1.0).unwrap();
        let p = step as f64 / steps as f64;
        let warm = ((step + 1) as f64 / 30.0).min(1.0);
        adam.step(&g, lr * warm * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * p).cos()))).unwrap();
        avg = if step == 0 { l as f64 } else { 0.97 * avg + 0.03 * l as f64 };
        if step % 100 == 99 || step + 1 == steps { println!("{name} {}/{steps} loss {avg:.3} {tok} tokens {:.0}s {:.0} tok/s", step + 1, t.elapsed().as_secs_f64(), tok as f64 / t.elapsed().as_secs_f64()); }
    }
}
pub fn sample(model: &CausalLm, prompts: &[Vec<TokenId>], max: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<TokenId>> {
    let mut out: Vec<Vec<TokenId>> = vec![vec![]; prompts.len()];
    let mut live: Vec<usize> = (0..prompts.len()).collect();
    for _ in 0..max {
        let seqs: Vec<Sequence> = live.iter().map(|&i| { let mut t = prompts[i].clone(); t.extend(&out[i]); t.push(EOS); Sequence { prompt_len: t.len() - 1, tokens: t } }).collect();
        let n = seqs.len(); let lg = model.response_logits(&SequenceBatch::new(seqs), &vec![1.0; n], Pass::Frozen).unwrap().0.to_vec2::<f32>().unwrap();
        let mut next = vec![];
        for (r, &i) in live.iter().enumerate() {
            let row = &lg[r]; let m = row.iter().cloned().fold(f32::MIN, f32::max);
            let z: f32 = row.iter().map(|x| (x - m).exp()).sum();
            let mut u = rng.random::<f32>() * z; let mut k = row.len() - 1;
            for (j, x) in row.iter().enumerate() { u -= (x - m).exp(); if u <= 0.0 { k = j; break; } }
            out[i].push(TokenId(k as u32)); if k != 0 { next.push(i); }
        }
        live = next; if live.is_empty() { break; }
    }
    out
}
pub fn gold(name: &str, model: &CausalLm, b: &Bpe, prompts: &[Prompt], seed: u64, show: usize) -> f64 {
    let t = Instant::now();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let p: Vec<_> = prompts.iter().map(|p| prompt_tokens(b, &p.instruction, true)).collect();
    let mut sum = Gold { helpful: 0., honest: 0., harmless: 0., ends: 0. }; let mut total = 0.0; let mut perfect = 0; let mut len = 0;
    let mut by: std::collections::BTreeMap<Kind, (f64, usize)> = Default::default();
    for (ps, pr) in p.chunks(64).zip(prompts.chunks(64)) {
        for (a, q) in sample(model, ps, 80, &mut rng).iter().zip(pr) {
            let ended = a.last() == Some(&EOS); let text = b.decode(a); len += a.len();
            let g = judge(&q.wanted, &text, ended);
            if len % 7 == 0 && show > 0 { println!("   {:5.2} {} => {text}", g.total(), q.instruction); }
            sum.helpful += g.helpful; sum.honest += g.honest; sum.harmless += g.harmless; sum.ends += g.ends; total += g.total(); perfect += usize::from(g.total() > 0.99);
            let e = by.entry(q.kind).or_default(); e.0 += g.total(); e.1 += 1;
        }
    }
    let n = prompts.len() as f64;
    println!("{name}: gold {:.3} perfect {:.2} (helpful {:.2} honest {:.2} harmless {:.2} ends {:.2}) len {:.1} in {:.1}s", total / n, perfect as f64 / n, sum.helpful / n, sum.honest / n, sum.harmless / n, sum.ends / n, len as f64 / n, t.elapsed().as_secs_f64());
    println!("   {}", by.iter().map(|(k, (s, n))| format!("{k:?} {:.2}", s / *n as f64)).collect::<Vec<_>>().join(", "));
    total / n
}
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (vocab, hidden, layers, heads, kv, ffn, base_steps, sft_steps) = (a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    let w = World::new(1);
    let pool = rayon_pool();
    let bpe = Bpe::learn(w.documents("vocabulary").take(20000), vocab, &["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]);
    let shape = Shape::llama(vocab, hidden, layers, heads, kv, ffn);
    println!("{} params", shape.n_parameters());
    let mut ck = random_checkpoint(&shape, 1).unwrap();
    ck.metadata.extend(bpe.metadata("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"));
    let test: Vec<Prompt> = w.prompts(Split::Validation, "eval").take(256).collect();
    let held: Vec<Sequence> = w.documents("held-out").take(200).map(|d| { let mut t = vec![EOS]; t.extend(bpe.encode(&d)); t.push(EOS); Sequence::text(t) }).collect();
    let nll = |m: &CausalLm| { let b = SequenceBatch::new(held.clone()); let o = m.frozen_log_probs(&b, &vec![1.0; held.len()]).unwrap(); -o.log_probs.iter().sum::<f32>() / o.log_probs.len() as f32 };
    pool.install(|| {
        let model = CausalLm::from_checkpoint(&ck, &Device::Cpu).unwrap();
        let mut docs = w.documents("pretraining");
        let doc = |d: String| { let mut t = vec![EOS]; t.extend(bpe.encode(&d)); t.push(EOS); Sequence::text(t) };
        fit("base", &model, base_steps, 3e-3, |_| docs.by_ref().take(64).map(doc).collect());
        println!("base nll {:.3}", nll(&model));
        gold("base", &model, &bpe, &test, 1, 1);
        model.to_checkpoint(&ck, WeightType::F32).unwrap().write(std::path::Path::new("/tmp/w_base.gguf")).unwrap();
        let mut demos = w.demonstrations("sft");
        fit("sft", &model, sft_steps, 1e-3, |_| {
            let mut s: Vec<Sequence> = demos.by_ref().take(48).map(|d| Sequence::new(&prompt_tokens(&bpe, &d.prompt.instruction, d.chat), &answer_tokens(&bpe, &d.answer))).collect();
            s.extend(docs.by_ref().take(3).map(doc)); s });
        println!("sft nll {:.3}", nll(&model));
        gold("sft", &model, &bpe, &test, 1, 1);
        model.to_checkpoint(&ck, WeightType::F32).unwrap().write(std::path::Path::new("/tmp/w_sft.gguf")).unwrap();
    });
}
struct Here; impl Here { fn install<R>(&self, f: impl FnOnce() -> R) -> R { f() } }
fn rayon_pool() -> Here { Here }
