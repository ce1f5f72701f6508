//! One file at several widths.

use atoll_model::perplexity::{PerplexityOptions, perplexity};

use super::*;
use crate::text::Text;

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
    let judged = judged_by(&options, &file);
    let mut so_far = judged(&file, &narrow);
    for (idx, (step, noted)) in steps.iter().zip(&report.steps).enumerate() {
        assert_eq!((step.layer, widths[step.width]), (noted.layer, noted.neurons));
        narrow[step.layer] = widths[step.width];
        if steps.len() * 3 / 8 == idx + 1 {
            so_far = judged(&file, &narrow).max(so_far);
            assert!((noted.kl_mean - so_far).abs() < 1e-9, "{} {so_far}", noted.kl_mean);
        }
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

/// The divergence of a file with so many neurons in each layer from the model as given, on the text
/// that is not calibrated on.
fn judged_by(options: &Options, file: &GgufFile) -> impl Fn(&GgufFile, &[usize]) -> f64 {
    let held_out = Text::of(options, file.config()).expect("long enough").held_out;
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("a thread"));
    move |file, neurons| {
        let load = |file: GgufFile| {
            let source = TensorSource::Gguf(file);
            let part = Part::whole(source.config());
            Stage::load(&source, &part, &compute, &mut |_| {}).expect("whole")
        };
        let narrow = load(file.narrowed(neurons).expect("these widths"));
        let given = load(model(Architecture::Llama));
        let options = PerplexityOptions { context: 512, chunks_max: 99, bos: None };
        let found = perplexity(&narrow, Some(&given), &held_out, options, &mut |_, _, _| {});
        found.expect("long enough").divergence.expect("there is another").kl_mean
    }
}
