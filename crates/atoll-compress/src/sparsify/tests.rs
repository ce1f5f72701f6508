use super::*;

const METHODS: [SparseMethod; 3] =
    [SparseMethod::Magnitude, SparseMethod::Wanda, SparseMethod::SparseGpt];

fn weights() -> Array2<f32> {
    Array2::from_shape_fn((40, 256), |(i, j)| {
        (((i * 31 + j * 17 + i * j * 7) % 1009) as f32 / 1009.0) - 0.4999
    })
}

/// Inputs of different strength that lean on each other, (rows, 256).
fn inputs() -> Array2<f32> {
    let plain = Array2::from_shape_fn((1024, 256), |(i, j)| {
        (((i * 7919 + j * 104_729 + i * j) % 2003) as f32 / 2003.0) - 0.5
    });
    let mixed = Array2::from_shape_fn((256, 256), |(i, j)| {
        let strength = 1.0 + (j * 37 % 11) as f32;
        strength / (1.0 + i.abs_diff(j) as f32) * if (i + j) % 3 == 0 { -1.0 } else { 1.0 }
    });
    plain.dot(&mixed)
}

/// `w` by what goes in, `x`, (1024, 256).
fn applied(x: &Array2<f32>, mut w: Array2<f32>, sparsity: Sparsity) -> Array2<f32> {
    let pool = Pool::new(2).expect("threads");
    let h = x.t().dot(x) / 1024.0;
    let columns = Columns::of_inputs("w", h, sparsity.method.errors(), &pool);
    sparsity.apply(&mut w, &columns.expect("numbers"), &pool);
    w
}

fn square(d: Array2<f32>) -> f64 {
    d.iter().map(|v| f64::from(v * v)).sum()
}

fn pruned(method: SparseMethod, pattern: Pattern) -> (Array2<f32>, f64) {
    let x = inputs();
    let w = applied(&x, weights(), Sparsity { pattern, method });
    let want = x.dot(&weights().t());
    let lost = square(&want - &x.dot(&w.t())) / square(want);
    (w, lost)
}

#[test]
fn as_many_are_zero_as_were_asked_for() {
    for method in METHODS {
        for (pattern, zeros) in
            [(Pattern::Share(0.5), 5120), (Pattern::Share(0.25), 2560), (Pattern::Share(0.0), 0)]
        {
            let (w, _) = pruned(method, pattern);
            assert_eq!(w.iter().filter(|v| **v == 0.0).count(), zeros, "{method:?}");
        }
        for (kept, of) in [(2, 4), (4, 8), (8, 16)] {
            let (w, _) = pruned(method, Pattern::Group { kept, of });
            for group in w.as_slice().expect("contiguous").chunks(of) {
                let stays = group.iter().filter(|v| **v != 0.0).count();
                assert_eq!(stays, kept, "{method:?} {kept}:{of}");
            }
        }
    }
}

#[test]
fn each_method_loses_less_than_the_one_before() {
    for pattern in [Pattern::Share(0.5), Pattern::Group { kept: 2, of: 4 }] {
        let [magnitude, wanda, surgeon] = METHODS.map(|method| pruned(method, pattern).1);
        assert!(wanda < 0.9 * magnitude, "{pattern:?}: {wanda} {magnitude}");
        assert!(surgeon < 0.7 * wanda, "{pattern:?}: {surgeon} {wanda}");
    }
}

#[test]
fn one_strong_input_does_not_drown_the_others() {
    let mut x = inputs();
    let half = Sparsity { pattern: Pattern::Share(0.5), method: SparseMethod::SparseGpt };
    let plain = applied(&x, weights(), half);
    x.column_mut(255).map_inplace(|value| *value *= 1000.0);
    let strong = applied(&x, weights(), half);
    let others = |w: &Array2<f32>| w.slice(s![.., ..128]).to_owned();
    let off = square(others(&strong) - &others(&plain)) / square(others(&plain));
    assert!(off < 0.01, "columns that are chosen before it is are {off} off");
}

#[test]
fn every_row_keeps_as_many() {
    let mut w = weights();
    w.row_mut(3).map_inplace(|value| *value *= 1e-3);
    let share = Sparsity { pattern: Pattern::Share(0.3), method: SparseMethod::SparseGpt };
    let w = applied(&inputs(), w, share);
    for (idx, row) in w.rows().into_iter().enumerate() {
        assert_eq!(row.iter().filter(|v| **v == 0.0).count(), 77, "row {idx}");
    }
}

#[test]
fn what_stays_is_where_least_is_lost() {
    let x = inputs();
    let share = Sparsity { pattern: Pattern::Share(0.5), method: SparseMethod::SparseGpt };
    let w = applied(&x, weights(), share);
    // By the moments that it goes by, which are not quite those of `x`.
    let mut h = x.t().dot(&x) / 1024.0;
    crate::linalg::shrink(&mut h, 0.3);
    let loss = |w: &Array2<f32>| -> f64 {
        let off = &weights() - w;
        off.dot(&h).iter().zip(&off).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let (least, mut seen) = (loss(&w), 0);
    for (row, col) in (0..40).zip((0..256).step_by(5)) {
        if w[[row, col]] != 0.0 {
            seen += 1;
            for step in [-0.1, 0.1] {
                let mut moved = w.clone();
                moved[[row, col]] += step;
                assert!(loss(&moved) > least, "({row}, {col}) and {step}");
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn blocks_of_weights_that_say_less_lose_more() {
    let share = Sparsity { pattern: Pattern::Share(0.5), method: SparseMethod::SparseGpt };
    let small = |mut of: Array2<f32>| {
        of.slice_mut(s![.., 128..]).map_inplace(|value| *value *= 0.2);
        of
    };
    // Because they are small, or because what goes into them is.
    for w in
        [applied(&inputs(), small(weights()), share), applied(&small(inputs()), weights(), share)]
    {
        for row in w.rows() {
            let zeros = |part: std::ops::Range<usize>| {
                row.slice(s![part]).iter().filter(|value| **value == 0.0).count()
            };
            let (first, second) = (zeros(0..128), zeros(128..256));
            assert!(first + second == 128 && second > first + 30, "{first} {second}");
        }
    }
}

#[test]
fn wanda_changes_nothing_that_stays() {
    let (w, _) = pruned(SparseMethod::Wanda, Pattern::Share(0.5));
    assert!(w.iter().zip(&weights()).all(|(now, was)| *now == 0.0 || now == was));
}

#[test]
fn patterns_that_cannot_be_are_refused() {
    let check = |pattern, cols| Sparsity { pattern, method: SparseMethod::Wanda }.check("w", cols);
    assert!(check(Pattern::Share(0.5), 100).is_ok());
    assert!(matches!(check(Pattern::Share(1.0), 100), Err(CompressError::Share { .. })));
    assert!(check(Pattern::Group { kept: 8, of: 16 }, 96).is_ok());
    for (kept, of, cols) in [(8, 16, 100), (0, 4, 96), (5, 4, 96), (2, 3, 96)] {
        let found = check(Pattern::Group { kept, of }, cols);
        assert!(matches!(found, Err(CompressError::Group { .. })), "{kept}:{of} of {cols}");
    }
}
