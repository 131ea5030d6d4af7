use super::operand::Operand;
use super::*;

/// Numbers of many sizes, the same in every run.
fn numbers(count: usize, mut seed: u32) -> Vec<f32> {
    let number = |_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (sign, exponent) = (seed & 1 << 31, 118 + (seed >> 7) % 12);
        f32::from_bits(sign | exponent << 23 | seed >> 5 & 0x7f_ffff)
    };
    (0..count).map(number).collect()
}

/// The sums of an instruction, number by number, from its description.
fn by_hand(
    sums: Sums,
    left: Matrix<'_>,
    right: Matrix<'_>,
    before: f32,
    [row, column]: [usize; 2],
) -> f32 {
    let inner = left.shape[1];
    let bf16 = |x: f32| half::bf16::from_f32(x).to_f32();
    let number = |matrix: &Matrix<'_>, row: usize, at: usize| {
        let [row_step, step] = matrix.steps;
        let place = row * row_step + at * step;
        if at < inner {
            bf16(matrix.values[place])
        } else {
            0.0
        }
    };
    let product =
        |sum: f32, at: usize| number(&left, row, at).mul_add(number(&right, column, at), sum);
    let mut sum = before;
    match sums {
        Sums::Pairs => {
            for at in (0..inner).step_by(2) {
                sum = product(product(sum, at + 1), at);
            }
        }
        Sums::Tiles => {
            for part in (0..inner).step_by(32) {
                let [even, odd] =
                    [0, 1].map(|half| (part + half..part + 32).step_by(2).fold(0.0, product));
                sum += even + odd;
            }
        }
    }
    sum
}

/// Compares a product, set and then added to, with [`by_hand`]; columns beside it must stay.
fn compare_with_hand(kernel: Kernel, left: Matrix<'_>, right: Matrix<'_>) {
    let ([rows, inner], [columns, _]) = (left.shape, right.shape);
    let packed = PackedLeft::of(&left, kernel.sums);
    let packed_right = PackedRight::of(&right, kernel.sums);
    let step = columns + 3;
    let mut got = vec![2.0; rows * step];
    multiply_with(
        kernel,
        MatrixMut::new(&mut got, step),
        false,
        &packed,
        &packed_right,
    );
    let set = got.clone();
    multiply_with(
        kernel,
        MatrixMut::new(&mut got, step),
        true,
        &packed,
        &packed_right,
    );
    for row in 0..rows {
        for column in 0..columns {
            let name = format!("{kernel:?} {rows} × {inner} × {columns}: {row}, {column}");
            let place = row * step + column;
            let want = by_hand(kernel.sums, left, right, 0.0, [row, column]);
            assert_eq!(set[place].to_bits(), want.to_bits(), "{name}");
            let want = by_hand(kernel.sums, left, right, want, [row, column]);
            assert_eq!(got[place].to_bits(), want.to_bits(), "{name}, added");
        }
        let beside = &got[row * step + columns..(row + 1) * step];
        assert!(
            beside.iter().all(|x| x.to_bits() == 2.0_f32.to_bits()),
            "{kernel:?}"
        );
    }
}

#[test]
fn products_have_the_bits_of_the_instructions_descriptions() {
    for [rows, inner, columns] in [
        [1, 1, 1],
        [2, 3, 5],
        [13, 31, 33],
        [12, 64, 64],
        [50, 385, 70],
        [97, 800, 40],
        [400, 800, 130], // several strips, parts and blocks, on all cores
        [3, 2000, 40],   // more blocks than are added at once
    ] {
        let (left, right) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
        let lefts = [
            Matrix::of_rows(&left, inner),
            Matrix::new(&left, [rows, inner], [1, rows]),
        ];
        let rights = [
            Matrix::of_rows(&right, inner),
            Matrix::new(&right, [columns, inner], [1, columns]),
        ];
        for (left, right) in lefts
            .into_iter()
            .flat_map(|left| rights.map(|right| (left, right)))
        {
            for sums in Sums::ALL {
                for has_instruction in [false, sums.has_instruction()] {
                    let kernel = Kernel {
                        sums,
                        has_instruction,
                    };
                    compare_with_hand(kernel, left, right);
                }
            }
        }
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest_bf16() {
    for bits in (0..=u32::MAX).step_by(65_521).chain([
        0x3f80_8000,
        0x3f81_8000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7f80_0001,
        0xffff_ffff,
    ]) {
        let x = f32::from_bits(bits);
        let mut tile = [[0; 32]; 16];
        Matrix::of_rows(&[x], 1).fill(0, 0, &mut tile);
        let want = half::bf16::from_f32(x);
        let got = half::bf16::from_bits(tile[0][0]);
        assert!(
            got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
            "{x:e}: {got:e} instead of {want:e}"
        );
    }
}

#[test]
fn subnormal_numbers_are_zero_in_operands_sums_and_results() {
    let tiny = f32::MIN_POSITIVE;
    for sums in [Sums::Pairs, Sums::Tiles] {
        for has_instruction in [false, sums.has_instruction()] {
            let product = |left: f32, right: f32, before: f32| {
                let mut got = [before];
                let (left, right) = ([left], [right]);
                let (left, right) = (Matrix::of_rows(&left, 1), Matrix::of_rows(&right, 1));
                let (left, right) = (PackedLeft::of(&left, sums), PackedRight::of(&right, sums));
                multiply_with(
                    Kernel {
                        sums,
                        has_instruction,
                    },
                    MatrixMut::new(&mut got, 1),
                    true,
                    &left,
                    &right,
                );
                got[0]
            };
            assert_eq!(product(tiny / 2.0, 1e30, 0.0).to_bits(), 0, "operand");
            assert_eq!(product(tiny, 0.5, 0.0).to_bits(), 0, "result");
            assert_eq!(product(0.0, 1.0, tiny / 2.0).to_bits(), 0, "sum");
            assert_eq!(
                product(tiny, 1.0, 0.0).to_bits(),
                tiny.to_bits(),
                "the least normal number"
            );
            assert!(product(f32::INFINITY, 0.0, 0.0).is_nan());
        }
    }
}

#[test]
fn no_number_of_threads_changes_a_bit() {
    let [rows, inner, columns] = [130, 400, 300];
    let (left, right) = (numbers(rows * inner, 3), numbers(inner * columns, 4));
    let on = |num_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads);
        pool.build().unwrap().install(|| {
            let left = PackedLeft::of(&Matrix::of_rows(&left, inner), Sums::Pairs);
            let right = PackedRight::of(&Matrix::of_rows(&right, inner), Sums::Pairs);
            let got = product(&left, &right);
            got.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let alone = on(1);
    for num_threads in [2, 3, 8] {
        assert!(on(num_threads) == alone, "{num_threads} threads");
    }
}
