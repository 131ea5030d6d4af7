//! Rates of products in f32 and bf16, each beside the rate of its instruction alone.
//!
//! ```sh
//! cargo bench --bench gemm
//! ```
//!
//! `--threads N` (all cores) and `--repeats N` (7). One JSON object goes to stdout; rates are GFLOP/s, medians of the repeats.
//! `scripts/bench_products.py` compares with PyTorch.
//!
//! Products in bf16 are measured in each order of sums that this machine has an instruction for; they read and write f32, so
//! rounding is part of them. Weights are packed before, once, as in a step. `peak` is what 24 registers of sums reach with an
//! instruction that reads nothing from memory, on one thread and on all; `share` is a product's part of it, both timed one after
//! the other. AMX has no peak here.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use alambic::allocator::{self, MiMalloc};
use alambic::device;
use alambic::kernels::{Arithmetic, Passes, Sums, Weight, add_product};
use alambic::random::Stream;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, Value, json};

use crate::common::{Options, median, single};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Seconds of calls that are timed together: so long that the clock's own time is nothing.
const TIMED_SECS: f64 = 0.02;

/// A product of a linear layer.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `x · Wᵀ`
    Forward,
    /// `slope · W`
    SlopeOfInput,
    /// `slopeᵀ · x`, added to the sum over micro-batches
    SlopeOfWeight,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Forward, Self::SlopeOfInput, Self::SlopeOfWeight];

    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::SlopeOfInput => "slope_of_input",
            Self::SlopeOfWeight => "slope_of_weight",
        }
    }
}

/// A linear layer, and the positions that go through it at once.
struct Layer {
    name: &'static str,
    positions: usize,
    inputs: usize,
    outputs: usize,
    kinds: &'static [Kind],
}

impl Layer {
    /// Multiplications and additions of a product; they are as many in each kind.
    fn num_operations(&self) -> f64 {
        2.0 * self.positions as f64 * self.inputs as f64 * self.outputs as f64
    }
}

const fn layer(
    name: &'static str,
    [positions, inputs, outputs]: [usize; 3],
    kinds: &'static [Kind],
) -> Layer {
    Layer {
        name,
        positions,
        inputs,
        outputs,
        kinds,
    }
}

/// A square; the layers of the `large` student of `train_step` with 4 rows of 256; those of SmolLM2-135M, which is as wide.
const LAYERS: [Layer; 10] = [
    layer("square", [2048, 2048, 2048], &[Kind::Forward]),
    layer("train: q", [1024, 576, 576], &Kind::ALL),
    layer("train: kv", [1024, 576, 192], &Kind::ALL),
    layer("train: up", [1024, 576, 1536], &Kind::ALL),
    layer("train: down", [1024, 1536, 576], &Kind::ALL),
    layer("capture: q", [2048, 576, 576], &[Kind::Forward]),
    layer("capture: kv", [2048, 576, 192], &[Kind::Forward]),
    layer("capture: up", [2048, 576, 1536], &[Kind::Forward]),
    layer("capture: down", [2048, 1536, 576], &[Kind::Forward]),
    layer("capture: head", [2048, 576, 49_152], &[Kind::Forward]),
];

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_freed_pages();
    let options = Options::of_this_process();
    options.start_threads()?;
    let repeats = options.number("--repeats", 7)?.max(1);
    let device = device::open("flex")?;
    let bf16 = Sums::ALL.into_iter().filter(|sums| sums.has_instruction());
    let arithmetics: Vec<Arithmetic> = [Arithmetic::F32]
        .into_iter()
        .chain(bf16.map(Arithmetic::Bf16))
        .collect();
    let of_arithmetics = |values: Vec<Value>| {
        let names = arithmetics.iter().map(Arithmetic::to_string);
        Value::Object(names.zip(values).collect::<Map<_, _>>())
    };
    let mut products = Vec::new();
    for layer in &LAYERS {
        let operands: Vec<Operands> = arithmetics
            .iter()
            .map(|&arithmetic| Operands::random(layer, arithmetic, &device))
            .collect();
        for &kind in layer.kinds {
            let rates = rates(layer, kind, &operands, repeats);
            products.push(json!({
                "name": layer.name,
                "kind": kind.name(),
                "positions": layer.positions,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "rates": of_arithmetics(rates),
            }));
        }
    }
    let peaks = arithmetics.iter().map(|&arithmetic| {
        let [one, all] = [1, rayon::current_num_threads()].map(|num_threads| {
            let peaks: Option<Vec<f64>> = (0..repeats)
                .map(|_| registers::peak(arithmetic, num_threads))
                .collect();
            peaks.map(|peaks| median(&peaks))
        });
        json!({ "1": one, "all": all })
    });
    let figures = json!({
        "threads": rayon::current_num_threads(),
        "peak": of_arithmetics(peaks.collect()),
        "products": products,
    });
    println!("{figures}");
    Ok(())
}

/// What the products of a layer read.
struct Operands {
    arithmetic: Arithmetic,
    x: Tensor<2>,     // [P, in]
    slope: Tensor<2>, // [P, out]
    weight: Weight,   // [out, in]
}

impl Operands {
    fn random(layer: &Layer, arithmetic: Arithmetic, device: &Device) -> Self {
        let mut stream = Stream::new(17, "bench gemm");
        let mut matrix = |[rows, columns]: [usize; 2]| {
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| single(stream.uniform() - 0.5))
                .collect();
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let x = matrix([layer.positions, layer.inputs]);
        let slope = matrix([layer.positions, layer.outputs]);
        let weight = Weight::new(matrix([layer.outputs, layer.inputs]), arithmetic);
        Self {
            arithmetic,
            x,
            slope,
            weight: weight.packed(Passes::ForwardAndBackward),
        }
    }

    /// Seconds of so many products.
    fn secs(&self, kind: Kind, num_calls: usize) -> f64 {
        let mut total = self.weight.tensor().zeros_like(); // [out, in]
        let since = Instant::now();
        for _ in 0..num_calls {
            let (x, slope) = (self.x.clone(), self.slope.clone());
            match kind {
                Kind::Forward => drop(black_box(self.weight.linear(x))),
                Kind::SlopeOfInput => drop(black_box(self.weight.slope_of_input(slope))),
                Kind::SlopeOfWeight => {
                    total = add_product(total, slope.transpose(), x, self.arithmetic);
                }
            }
        }
        black_box(total);
        since.elapsed().as_secs_f64()
    }
}

/// Rate of a product in each arithmetic, and its share of what the instruction alone reaches. All are measured in turn, so that
/// none gets the machine's better moments.
fn rates(layer: &Layer, kind: Kind, operands: &[Operands], repeats: usize) -> Vec<Value> {
    let calls = |operands: &Operands| {
        let secs = operands.secs(kind, 1);
        (1..1000).find(|&num_calls| num_calls as f64 * secs >= TIMED_SECS)
    };
    let num_calls: Vec<usize> = operands
        .iter()
        .map(|operands| calls(operands).unwrap_or(1000))
        .collect();
    let mut rates = vec![Vec::new(); operands.len()];
    let mut shares = rates.clone();
    for _ in 0..repeats {
        for (at, operands) in operands.iter().enumerate() {
            let secs = operands.secs(kind, num_calls[at]) / num_calls[at] as f64;
            let rate = layer.num_operations() / secs / 1e9;
            rates[at].push(rate);
            let peak = registers::peak(operands.arithmetic, rayon::current_num_threads());
            shares[at].extend(peak.map(|peak| rate / peak));
        }
    }
    let pairs = rates.iter().zip(&shares);
    pairs
        .map(|(rates, shares)| {
            let share = (!shares.is_empty()).then(|| median(shares));
            json!({ "gflops": median(rates), "share": share })
        })
        .collect()
}

/// Loops that only compute.
#[cfg(target_arch = "x86_64")]
mod registers {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm256_add_ps, _mm256_fmadd_ps, _mm256_set1_ps, _mm512_add_ps,
        _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_epi32, _mm512_set1_ps,
    };
    use std::array;
    use std::hint::black_box;
    use std::mem::transmute;
    use std::time::Instant;

    use alambic::kernels::{Arithmetic, Sums};
    use rayon::prelude::*;

    /// Rounds of a call: about a millisecond, so that a core which does other work, too, takes fewer calls than the rest.
    const NUM_ROUNDS: usize = 100_000;

    /// Calls of each thread.
    const NUM_CALLS: usize = 20;

    /// Sums that are added to in a round. Each instruction waits for none of the ones before it.
    const NUM_SUMS: usize = 24;

    /// As many with the 16 registers of AVX2.
    const NUM_SUMS_256: usize = 12;

    /// GFLOP/s of the instruction of a product alone; `None` if it is AMX's, or unknown. On several threads, on all.
    pub(crate) fn peak(arithmetic: Arithmetic, num_threads: usize) -> Option<f64> {
        let rounds = Rounds::of(arithmetic)?;
        let num_calls = NUM_CALLS * num_threads;
        let since = Instant::now();
        if num_threads == 1 {
            (0..num_calls).for_each(|_| rounds.run());
        } else {
            let calls = (0..num_calls).into_par_iter().with_max_len(1);
            calls.for_each(|_| rounds.run());
        }
        let secs = since.elapsed().as_secs_f64();
        Some(num_calls as f64 * rounds.num_operations() / secs / 1e9)
    }

    /// Rounds of the widest instruction of this machine.
    #[derive(Debug, Clone, Copy)]
    enum Rounds {
        Fma256,
        Fma512,
        Pairs,
    }

    impl Rounds {
        fn of(arithmetic: Arithmetic) -> Option<Self> {
            let has_512 = is_x86_feature_detected!("avx512f");
            let has_256 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match arithmetic {
                Arithmetic::F32 if has_512 => Some(Self::Fma512),
                Arithmetic::F32 => has_256.then_some(Self::Fma256),
                Arithmetic::Bf16(Sums::Pairs) => {
                    (has_512 && is_x86_feature_detected!("avx512bf16")).then_some(Self::Pairs)
                }
                Arithmetic::Bf16(Sums::Tiles) => None,
            }
        }

        /// Multiplications and additions of a call.
        fn num_operations(self) -> f64 {
            let in_round = match self {
                Self::Fma256 => NUM_SUMS_256 * 8,
                Self::Fma512 => NUM_SUMS * 16,
                Self::Pairs => NUM_SUMS * 32,
            };
            2.0 * in_round as f64 * NUM_ROUNDS as f64
        }

        #[expect(unsafe_code, reason = "the instructions are not on every processor")]
        fn run(self) {
            // SAFETY: `of` asked the machine.
            unsafe {
                match self {
                    Self::Fma256 => fma_256(),
                    Self::Fma512 => fma_512(),
                    Self::Pairs => pairs(),
                }
            }
        }
    }

    // In each loop a compiler knows neither the operands nor the sums' first values, so that it can merge no two sums.

    #[target_feature(enable = "avx2,fma")]
    fn fma_256() {
        let mut sums: [_; NUM_SUMS_256] = array::from_fn(|at| _mm256_set1_ps(black_box(at as f32)));
        let [left, right] = [0.5, 0.25].map(|value| _mm256_set1_ps(black_box(value)));
        for _ in 0..NUM_ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(left, right, *sum);
            }
        }
        black_box(sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b)));
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512() {
        let mut sums: [_; NUM_SUMS] = array::from_fn(|at| _mm512_set1_ps(black_box(at as f32)));
        let [left, right] = [0.5, 0.25].map(|value| _mm512_set1_ps(black_box(value)));
        for _ in 0..NUM_ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(left, right, *sum);
            }
        }
        black_box(sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)));
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs() {
        let mut sums: [_; NUM_SUMS] = array::from_fn(|at| _mm512_set1_ps(black_box(at as f32)));
        let [left, right] = [0x3f00_3f00, 0x3e80_3e80].map(|pair| {
            let pair = _mm512_set1_epi32(black_box(pair)); // 0.5 and 0.25 in bf16, twice
            #[expect(unsafe_code, reason = "both are 512 bits")]
            // SAFETY: any bits are 32 numbers.
            unsafe {
                transmute::<__m512i, __m512bh>(pair)
            }
        });
        for _ in 0..NUM_ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, left, right);
            }
        }
        black_box(sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)));
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use alambic::kernels::Arithmetic;

    pub(crate) fn peak(_: Arithmetic, _: usize) -> Option<f64> {
        None
    }
}
