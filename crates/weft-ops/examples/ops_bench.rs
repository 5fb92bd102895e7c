//! GB/s of each operation on data in cache and in memory: `./x bench ops`.

use std::hint::black_box;
use std::time::Instant;

use weft_ops::{Op, Program, Step};

/// Bytes that each figure is taken over.
const TOTAL_BYTES: usize = 2 << 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes = [16 << 10, 256 << 10, 64 << 20];
    println!(
        "{:<8} {:>10} {:>10} {:>10}   GB/s, median of 5",
        "op", "16 KiB", "256 KiB", "64 MiB"
    );
    let mut json = serde_json::Map::new();
    for op in [Op::CountEq, Op::Xor, Op::Add, Op::Crc32c, Op::Fnv64] {
        let program = Program::single(Step {
            op,
            imm: 42,
            offset: None,
            length: None,
        });
        let rates: Vec<f64> = sizes.iter().map(|size| rate(&program, *size)).collect();
        println!(
            "{:<8} {:>10.1} {:>10.1} {:>10.1}",
            op.as_str(),
            rates[0],
            rates[1],
            rates[2]
        );
        json.insert(op.as_str().to_owned(), serde_json::json!(rates));
    }
    println!("{}", serde_json::Value::from(json));
    Ok(())
}

fn rate(program: &Program, size: usize) -> f64 {
    let data: Vec<u8> = (0..size)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let rounds = (TOTAL_BYTES / 8 / size).max(1);
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..rounds {
                black_box(program.run(black_box(&data))).ok();
            }
            (rounds * size) as f64 / start.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[2]
}
