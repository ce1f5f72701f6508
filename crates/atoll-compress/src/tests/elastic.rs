//! One file at several widths.

use super::*;

#[test]
fn one_file_runs_at_several_widths() {
    let pruning = Pruning::Neurons { share: 0.0, method: PruneMethod::Sobs, alike: false };
    let options = Options { pruning, widths: vec![0.75, 0.5], ..options(BlockType::Q8_0) };
    let (file, report) = compressed(model(Architecture::Llama), &options).expect("ok");
    let widths: Vec<usize> = file.widths().iter().map(|width| width.neurons).collect();
    assert_eq!(widths, [128, 96, 64]);
    for pair in report.widths.windows(2) {
        let [wide, narrow] = pair else { panic!("two") };
        assert!(wide.kl_mean < narrow.kl_mean, "{:?}", report.widths);
        assert!(wide.weight_bytes_per_token > narrow.weight_bytes_per_token);
    }
    for (noted, measured) in file.widths().iter().zip(&report.widths) {
        assert!((f64::from(noted.kl_mean) - measured.kl_mean).abs() < 1e-6 * measured.kl_mean);
    }
    let (steps, mut narrow) = (file.steps(), [128; 4]);
    assert_eq!(steps.len(), report.steps.len());
    for (step, noted) in steps.iter().zip(&report.steps) {
        assert_eq!((step.layer, widths[step.width]), (noted.layer, noted.neurons));
        narrow[step.layer] = widths[step.width];
    }
    assert_eq!(narrow, [64; 4], "at their end all are as narrow as can be");
    assert!(steps.is_sorted_by(|a, b| a.kl_mean <= b.kl_mean), "{steps:?}");
    let [whole, _, narrowest] = &file.widths()[..] else { panic!("three") };
    assert!(steps[0].kl_mean >= whole.kl_mean, "{steps:?}");
    assert_eq!(steps.last().map(|step| step.kl_mean), Some(narrowest.kl_mean));
    let rows = last_row(file.narrowed(&[64; 4]).expect("it has this width"));
    assert!(rows.iter().all(|value| value.is_finite()));
    // A first half by rank is nearer than a last half would be.
    let want = last_row(model(Architecture::Llama));
    assert!(distance(&rows, &want) < 0.5, "{}", distance(&rows, &want));
    let refused = |widths| {
        let options = Options { widths, ..options.clone() };
        compressed(model(Architecture::Llama), &options).expect_err("refused")
    };
    for widths in [vec![0.5, 0.75], vec![1.0], vec![0.0], vec![f32::NAN]] {
        assert!(matches!(refused(widths.clone()), CompressError::Width { .. }), "{widths:?}");
    }
}
