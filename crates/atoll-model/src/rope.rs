//! Rotary position embedding: which angle turns which pair of a head's columns.
//!
//! Angles are computed in f64 with the `libm` crate and rounded to f32 once, so that every machine
//! turns by the same bits.

use crate::config::{RopeConfig, RopeScaling};
use std::f64::consts::PI;

/// The frequencies of one model, ready to give the table of any positions.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Angle per position of each pair, `(n_dims / 2)`, radians.
    frequencies: Vec<f64>,
    /// Factor on cosine and sine (YaRN's attention factor), else 1.
    magnitude: f64,
}

/// Cosines and sines of some positions, each `(n_positions, n_dims / 2)`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// The frequencies of `config`.
    #[must_use]
    pub fn new(config: &RopeConfig) -> Self {
        let pairs = config.n_dims / 2;
        let exponent = |i: usize| -2.0 * i as f64 / config.n_dims as f64;
        let plain = (0..pairs).map(|i| libm::pow(config.theta, exponent(i)));
        let mut magnitude = 1.0;
        let frequencies: Vec<f64> = match &config.scaling {
            RopeScaling::None => plain.collect(),
            &RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Factors { factors } => {
                plain.zip(factors).map(|(frequency, &by)| frequency / f64::from(by)).collect()
            }
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let band = Llama3 {
                    factor,
                    low: low_freq_factor,
                    high: high_freq_factor,
                    original_context: original_context as f64,
                };
                plain.map(|frequency| band.scale(frequency)).collect()
            }
            &RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
            } => {
                magnitude = attention_factor;
                let turns = |n: f64| yarn_dimension(config, original_context as f64, n);
                let low = libm::floor(turns(beta_fast)).max(0.0);
                let high = libm::ceil(turns(beta_slow)).min(config.n_dims as f64 - 1.0);
                plain
                    .enumerate()
                    .map(|(i, frequency)| {
                        let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                        frequency / factor * ramp + frequency * (1.0 - ramp)
                    })
                    .collect()
            }
        };
        Self { frequencies, magnitude }
    }

    /// The table of `positions`.
    #[must_use]
    pub fn table(&self, positions: impl Iterator<Item = usize>) -> RopeTable {
        let pairs = self.frequencies.len();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for &frequency in &self.frequencies {
                let (s, c) = libm::sincos(position as f64 * frequency);
                cos.push((c * self.magnitude) as f32);
                sin.push((s * self.magnitude) as f32);
            }
        }
        RopeTable { pairs, cos, sin }
    }
}

impl RopeTable {
    /// Cosines and sines of the table's row `i`, each `(n_dims / 2)`.
    #[must_use]
    pub fn row(&self, i: usize) -> (&[f32], &[f32]) {
        let span = i * self.pairs..(i + 1) * self.pairs;
        (&self.cos[span.clone()], &self.sin[span])
    }
}

/// Llama 3's scaling: long waves are stretched, short ones kept, a smooth ramp between.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original_context: f64,
}

impl Llama3 {
    fn scale(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * PI / frequency;
        if wavelength < self.original_context / self.high {
            frequency
        } else if wavelength > self.original_context / self.low {
            frequency / self.factor
        } else {
            let share = (self.original_context / wavelength - self.low) / (self.high - self.low);
            (1.0 - share) * frequency / self.factor + share * frequency
        }
    }
}

/// The (fractional) pair that makes `turns` full turns within the original context (YaRN, §3.2).
fn yarn_dimension(config: &RopeConfig, original_context: f64, turns: f64) -> f64 {
    config.n_dims as f64 * libm::log(original_context / (turns * 2.0 * PI))
        / (2.0 * libm::log(config.theta))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use atoll_kernels::RopeStyle;

    /// The expected values were computed with the formulas of the papers in double precision.
    fn check(theta: f64, scaling: RopeScaling, expected: [f64; 8]) {
        let config = RopeConfig { theta, n_dims: 16, scaling, style: RopeStyle::Neox };
        let rope = Rope::new(&config);
        for (frequency, expected) in rope.frequencies.iter().zip(expected) {
            assert!((frequency / expected - 1.0).abs() < 1e-12, "{frequency} {expected}");
        }
        let table = rope.table(5..8);
        for i in 0..3 {
            let (cos, sin) = table.row(i);
            for ((&cos, &sin), &frequency) in cos.iter().zip(sin).zip(&rope.frequencies) {
                let angle = (5 + i) as f64 * frequency;
                assert!((f64::from(cos) - rope.magnitude * angle.cos()).abs() < 1e-7);
                assert!((f64::from(sin) - rope.magnitude * angle.sin()).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn llama3_stretches_only_long_waves() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        check(500_000.0, scaling, LLAMA3);
    }

    #[test]
    fn yarn_interpolates_by_parts() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.138_629_436_111_989_1,
        };
        check(10_000.0, scaling, YARN);
    }

    #[test]
    fn factors_divide() {
        let plain = Rope::new(&RopeConfig {
            theta: 10_000.0,
            n_dims: 16,
            scaling: RopeScaling::None,
            style: RopeStyle::Norm,
        });
        let factors = vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0];
        let expected: Vec<f64> =
            plain.frequencies.iter().zip(&factors).map(|(f, &by)| f / f64::from(by)).collect();
        let expected = expected.try_into().unwrap();
        check(10_000.0, RopeScaling::Factors { factors }, expected);
    }

    const LLAMA3: [f64; 8] = [
        1.0,
        0.193_922_744_748_685_76,
        0.037_606_030_930_863_93,
        0.007_292_664_737_217_109,
        0.000_524_846_160_992_954_7,
        3.428_102_195_952_591e-5,
        6.647_869_871_181_235e-6,
        1.289_173_172_151_557_4e-6,
    ];
    const YARN: [f64; 8] = [
        1.0,
        0.316_227_766_016_837_94,
        0.1,
        0.025_693_505_988_868_08,
        0.006_25,
        0.001_383_496_476_323_666,
        0.000_25,
        7.905_694_150_420_948e-5,
    ];
}
