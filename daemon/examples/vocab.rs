use daemon::demo::world::*;
use policy::byte_pair::Bpe;
fn main() {
    let w = World::new(1);
    let docs: Vec<String> = w.documents("pretraining").take(60000).collect();
    for size in [1024, 1280, 1536, 2048] {
        let b = Bpe::learn(docs.iter().take(20000).cloned(), size, &["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]);
        let doc: usize = docs.iter().skip(50000).map(|d| b.encode(d).len() + 1).sum();
        let (mut p, mut a, mut m) = (0, 0, 0);
        for d in w.demonstrations("sft").take(2000) { let x = b.encode(&d.prompt.instruction).len() + 2; let y = b.encode(&d.answer).len() + 1; p += x; a += y; m = m.max(x + y); }
        println!("{size} -> {}: doc {:.1}, prompt {:.1}, answer {:.1}, max {m}", b.size(), doc as f64 / 10000.0, p as f64 / 2000.0, a as f64 / 2000.0);
    }
}
