fn main() {
    let a: Vec<String> = std::env::args().collect();
    daemon::demo::from_scratch(a[1].parse().unwrap(), std::path::Path::new(&a[2])).unwrap();
}
