//! The kernel against sums in f64, and its vectors against each other.

use half::{bf16, f16};

use crate::decoder::{
    lanes::{Eight, portable},
    numbers::{Kind, PANEL},
    panels::{Panels, padded},
    product::{Columns, Product, Rows},
};

/// Numbers without a pattern, between -1 and 1.
fn numbers(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A row as a file of this kind holds it, and what it says.
fn encoded(kind: Kind, row: &[f32]) -> (Vec<u8>, Vec<f32>) {
    match kind {
        Kind::F32 => (row.iter().flat_map(|x| x.to_le_bytes()).collect(), row.to_vec()),
        Kind::F16 => {
            let near: Vec<f16> = row.iter().map(|x| f16::from_f32(*x)).collect();
            (near.iter().flat_map(|x| x.to_le_bytes()).collect(), near.iter().map(|x| x.to_f32()).collect())
        }
        Kind::Bf16 => {
            let near: Vec<bf16> = row.iter().map(|x| bf16::from_f32(*x)).collect();
            (near.iter().flat_map(|x| x.to_le_bytes()).collect(), near.iter().map(|x| x.to_f32()).collect())
        }
        Kind::Q8 => {
            let (mut bytes, mut said) = (Vec::new(), Vec::new());
            for block in row.chunks_exact(32) {
                let scale = f16::from_f32(block.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0);
                bytes.extend(scale.to_le_bytes());
                let whole: Vec<i8> =
                    block.iter().map(|x| (x / scale.to_f32()).round().clamp(-127.0, 127.0) as i8).collect();
                bytes.extend(whole.iter().map(|x| x.cast_unsigned()));
                said.extend(whole.iter().map(|x| f32::from(*x) * scale.to_f32()));
            }
            (bytes, said)
        }
    }
}

const KINDS: [Kind; 4] = [Kind::F32, Kind::F16, Kind::Bf16, Kind::Q8];

fn packed(kind: Kind, n_out: usize, n_in: usize) -> (Panels, Vec<Vec<f32>>) {
    let rows: Vec<_> = (0..n_out).map(|i| encoded(kind, &numbers(i as u32 + 7, n_in))).collect();
    let mut bytes = rows.iter().map(|(bytes, _)| bytes);
    let panels = Panels::pack(kind, [n_out, n_in], |row| -> Result<(), ()> {
        row.copy_from_slice(bytes.next().unwrap());
        Ok(())
    });
    (panels.unwrap(), rows.into_iter().map(|(_, said)| said).collect())
}

fn product(panels: &Panels, n_rows: usize, a: &[f32], out: &mut [f32], adds: bool) {
    let a = Rows { at: a.as_ptr(), stride: panels.n_in() };
    let out = Rows { at: out.as_mut_ptr(), stride: padded(panels.n_out()) };
    // SAFETY: as many rows, and whole panels, as the tests below allocate.
    unsafe { panels.multiply(0..panels.n_panels(), n_rows, a, out, adds) }
}

/// Goal: products are what they should be for all types, numbers of rows and sizes, also of outputs that fill no panel. Method:
/// against sums in f64 of what the file says.
#[test]
fn products_are_sums_of_products() {
    for kind in KINDS {
        for (n_out, n_in) in [(32, 32), (70, 96), (1, 64)] {
            let (panels, said) = packed(kind, n_out, n_in);
            for n_rows in (1..=14).chain([25]) {
                let a = numbers(3, n_rows * n_in);
                let start = numbers(5, n_rows * padded(n_out));
                for adds in [false, true] {
                    let mut out = start.clone();
                    product(&panels, n_rows, &a, &mut out, adds);
                    for (m, n) in (0..n_rows).flat_map(|m| (0..n_out).map(move |n| (m, n))) {
                        let terms = (0..n_in).map(|k| f64::from(a[m * n_in + k]) * f64::from(said[n][k]));
                        let before = if adds { f64::from(start[m * padded(n_out) + n]) } else { 0.0 };
                        let (want, got) = (before + terms.sum::<f64>(), f64::from(out[m * padded(n_out) + n]));
                        assert!(
                            (want - got).abs() < 1e-5,
                            "{kind:?} {n_out}x{n_in}, row {m}, column {n}: {want} {got}"
                        );
                    }
                }
            }
        }
    }
}

/// Goal: a row of the table of embeddings is the row of the file, bit for bit.
#[test]
fn rows_are_read_as_the_file_has_them() {
    for kind in KINDS {
        let (panels, said) = packed(kind, 45, 96);
        for (i, want) in said.iter().enumerate() {
            let mut got = vec![0.0; 96];
            panels.row(i, &mut got);
            assert_eq!(&got, want, "{kind:?} {i}");
        }
    }
}

/// Goal: AVX-512, AVX2 and arrays give the same bits, and so does whatever number of rows is computed at once. Method: one row alone by
/// eights against all rows at once by the widest vectors.
#[test]
fn no_row_depends_on_its_neighbours_or_on_the_vectors() {
    for kind in KINDS {
        let (n_in, n_rows) = (96, 13);
        let (panels, _) = packed(kind, 64, n_in);
        let a = numbers(11, n_rows * n_in);
        let mut all = vec![0.0; n_rows * 64];
        product(&panels, n_rows, &a, &mut all, false);
        let mut alone = vec![0.0f32; 64];
        for (row, want) in a.chunks(n_in).zip(all.chunks(64)) {
            let (rows, out) = (Rows { at: row.as_ptr(), stride: n_in }, Rows { at: alone.as_mut_ptr(), stride: 64 });
            let product =
                Product { n_rows: 1, depth: n_in, a: rows, columns: panels.columns(), n_panels: 2, out, adds: false };
            // SAFETY: one row of whole panels.
            unsafe { product.by::<Eight, 4>() };
            assert_eq!(alone, want, "{kind:?}");
            alone.fill(0.0);
            // SAFETY: as above.
            unsafe { product.by::<portable::Eight, 4>() };
            assert_eq!(alone, want, "{kind:?}, without instructions of our own");
        }
    }
}

/// Goal: sums that end within a block of 32 steps, as over the positions of a page, take those steps alone. Method: a panel whose
/// other steps are no numbers.
#[test]
fn steps_that_are_not_asked_for_are_not_read() {
    let panel: Vec<f32> = (0..32 * PANEL).map(|i| if i < 5 * PANEL { 1.0 } else { f32::NAN }).collect();
    let columns = Columns { kind: Kind::F32, at: panel.as_ptr().cast(), stride: 0 };
    let (a, mut out) = ([2.0f32; 5], [1.0f32; PANEL]);
    let (a, to) = (Rows { at: a.as_ptr(), stride: 5 }, Rows { at: out.as_mut_ptr(), stride: PANEL });
    // SAFETY: five steps of a panel of 32.
    unsafe { Product { n_rows: 1, depth: 5, a, columns, n_panels: 1, out: to, adds: true }.compute() };
    assert_eq!(out, [11.0; PANEL]);
}
