//! diffusers' own trajectories on an analytic mixture: every state to 5e-6.
//!
//! `golden_schedulers.json` has 4 and 20 steps; `more_schedulers.json` (by `make_schedulers.py`) has 7 and 13, and DEIS.

use super::analytic::{Mixture, Rows};
use super::{assert_close, row, values};
use candle_core::Tensor;
use limner::Result;
use limner::diffusion::denoiser::{Network, Preconditioned, Prediction};
use limner::diffusion::sampler::{Basis, Churn, Sampler, SecondOrder, Variance};
use limner::diffusion::schedule::{Betas, NoiseSchedule, Spacing};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

const TOLERANCE: f64 = 5e-6;

#[derive(Deserialize)]
struct Case {
    cls: String,
    pred: String,
    kw: Value,
    step_kw: Value,
    timesteps: Vec<f64>,
    sigmas: Option<Vec<f64>>,
    init_noise_sigma: f64,
    #[serde(rename = "final")]
    last: Vec<f64>,
    trace4: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Golden {
    meta: Meta,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Meta {
    n0: Vec<f64>,
    g123: Vec<f64>,
}

#[derive(Deserialize)]
struct More {
    cases: BTreeMap<String, Case>,
}

fn golden() -> Golden {
    let mut golden: Golden = serde_json::from_str(include_str!("../../fixtures/golden_schedulers.json")).unwrap();
    let more: More = serde_json::from_str(include_str!("../../fixtures/more_schedulers.json")).unwrap();
    golden.cases.extend(more.cases);
    golden
}

/// The fixture's network: exact at the times that diffusers passes, which it rounds in some schedulers and not in
/// others; so the nearest of the listed times is taken, and its noise level from the table, linear in alpha-bar.
struct FixtureNetwork<'a> {
    case: &'a Case,
    table: NoiseSchedule,
}

impl Network for FixtureNetwork<'_> {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let asked = f64::from(t.to_vec1::<f32>()?[0]);
        let distance = |t: &f64| (t - asked).abs();
        let t = *self.case.timesteps.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("times");
        assert!(distance(&t) < 0.6, "asked for time {asked}, which the fixture never does");
        let (low, high) = (self.table.alpha_bar(t.floor()), self.table.alpha_bar(t.ceil()));
        let alpha_bar = low + (high - low) * t.fract();
        let (a, s) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let predict = |x: f64| {
            let denoised = Mixture::denoised(x / a, s / a);
            let epsilon = (x - a * denoised) / s;
            if self.case.pred == "epsilon" { epsilon } else { a * epsilon - s * denoised }
        };
        let output: Vec<f64> = values(x).into_iter().map(predict).collect();
        Ok(Tensor::from_vec(output, x.shape(), x.device())?)
    }
}

impl Case {
    fn flag(&self, name: &str) -> bool {
        self.kw[name] == Value::Bool(true)
    }

    fn schedule(&self) -> NoiseSchedule {
        NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, self.flag("rescale_betas_zero_snr")).unwrap()
    }

    fn sampler(&self) -> Sampler {
        match self.cls.as_str() {
            "DDPMScheduler" if self.kw["variance_type"] == "fixed_large" => {
                Sampler::Ddpm { variance: Variance::FixedLarge }
            }
            "DDPMScheduler" => Sampler::Ddpm { variance: Variance::FixedSmall },
            "DDIMScheduler" => Sampler::Ddim { eta: self.step_kw["eta"].as_f64().unwrap_or(0.0) },
            "EulerDiscreteScheduler" => Sampler::Euler { churn: Churn::NONE },
            "EulerAncestralDiscreteScheduler" => Sampler::EulerA { eta: 1.0 },
            "HeunDiscreteScheduler" => Sampler::Heun { churn: Churn::NONE },
            "DPMSolverMultistepScheduler" => self.dpm_solver(),
            "UniPCMultistepScheduler" => {
                let order = if self.kw["solver_order"] == 3 { 3 } else { 2 };
                let basis = if self.kw["solver_type"] == "bh1" { Basis::Bh1 } else { Basis::Bh2 };
                Sampler::Unipc { order, basis }
            }
            "DEISMultistepScheduler" => Sampler::Deis { order: self.kw["solver_order"].as_u64().unwrap() as usize },
            "PNDMScheduler" => Sampler::Pndm,
            "LMSDiscreteScheduler" => Sampler::Lms,
            "LCMScheduler" => Sampler::Lcm,
            other => panic!("no sampler for {other}"),
        }
    }

    fn dpm_solver(&self) -> Sampler {
        let kind = if self.kw["solver_type"] == "heun" { SecondOrder::Heun } else { SecondOrder::Midpoint };
        match (self.kw["solver_order"].as_u64(), self.kw["algorithm_type"] == "sde-dpmsolver++") {
            (Some(1), _) => Sampler::EULER,
            (Some(3), _) => Sampler::Dpmpp3m,
            (_, true) => Sampler::Dpmpp2mSde { eta: 1.0, kind },
            (_, false) if kind == SecondOrder::Heun => Sampler::Dpmpp2mSde { eta: 0.0, kind },
            _ => Sampler::Dpmpp2m,
        }
    }

    /// diffusers keeps DDPM, DDIM and DPM-Solver states scaled to unit variance.
    fn unit_variance(&self) -> bool {
        !["Euler", "Heun", "LMS"].iter().any(|name| self.cls.starts_with(name))
    }

    fn ladder(&self) -> Vec<f64> {
        let schedule = self.schedule();
        let Some(mut sigmas) = self.sigmas.clone() else {
            let mut sigmas: Vec<f64> = self.timesteps.iter().map(|t| schedule.sigma(*t)).collect();
            if self.flag("rescale_betas_zero_snr") {
                // DDIM keeps alpha-bar 0, an infinite sigma. Our steps have no use for the difference.
                sigmas[0] = 1e9;
            }
            let ends_at_table = self.kw["set_alpha_to_one"] == Value::Bool(false) || self.cls == "PNDMScheduler";
            sigmas.dedup(); // PNDM's second time is listed twice.
            sigmas.push(if ends_at_table { schedule.sigma_min() } else { 0.0 });
            return sigmas;
        };
        sigmas.dedup(); // Heun's, too.
        sigmas
    }

    /// From our state at `sigma` to diffusers'.
    fn scale(&self, sigma: f64) -> f64 {
        if self.unit_variance() { 1.0 / sigma.hypot(1.0) } else { 1.0 }
    }

    /// The state after the first `steps` steps, as diffusers would hold it.
    fn state(&self, meta: &Meta, steps: usize) -> Vec<f64> {
        let prediction = if self.pred == "epsilon" { Prediction::Epsilon } else { Prediction::Velocity };
        let table = NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, false).unwrap();
        let denoiser = Preconditioned::new(FixtureNetwork { case: self, table }, prediction, self.schedule());
        let ladder = &self.ladder()[..=steps];
        let start = self.init_noise_sigma / self.scale(ladder[0]);
        let x = row(&meta.n0.iter().map(|n| n * start).collect::<Vec<_>>());
        let mut noise = Rows::new(meta.g123.chunks(16).map(<[f64]>::to_vec).collect());
        let end = self.sampler().run(&denoiser, x, ladder, &mut noise, &mut |_| Ok(())).unwrap();
        values(&(end * self.scale(ladder[steps])).unwrap())
    }

    /// What diffusers adds on the very last step and we do not: `fixed_large` noise on the finished picture.
    fn parting_noise(&self, meta: &Meta) -> Vec<f64> {
        let steps = self.ladder().len() - 1;
        let last = self.schedule().alpha_bar(*self.timesteps.last().expect("times"));
        let large = self.sampler() == Sampler::Ddpm { variance: Variance::FixedLarge };
        let scale = if large { (1.0 - last).sqrt() } else { 0.0 };
        meta.g123[16 * (steps - 1)..16 * steps].iter().map(|z| scale * z).collect()
    }
}

#[test]
fn the_ends_of_diffusers_trajectories() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 68 + 66);
    for (name, case) in &golden.cases {
        let steps = case.ladder().len() - 1;
        let end = case.state(&golden.meta, steps);
        let parting = case.parting_noise(&golden.meta);
        let found: Vec<f64> = end.iter().zip(parting).map(|(x, z)| x + z).collect();
        println!("{name}");
        assert_close(&found, &case.last, TOLERANCE);
    }
}

/// Whether the order of the last steps depends on the number of steps, so that a shortened walk is another walk.
fn depends_on_the_end(sampler: Sampler) -> bool {
    matches!(
        sampler,
        Sampler::Dpmpp2m | Sampler::Dpmpp3m | Sampler::Dpmpp2mSde { .. } | Sampler::Unipc { .. } | Sampler::Deis { .. }
    )
}

#[test]
fn every_state_on_the_way() {
    let golden = golden();
    for (name, case) in &golden.cases {
        if depends_on_the_end(case.sampler()) {
            continue;
        }
        let ladder = case.ladder();
        // Of Heun's two states the second is a step's end, and of PNDM's first step.
        let row = |steps: usize| match case.sampler() {
            Sampler::Heun { .. } => 2 * steps - 1,
            Sampler::Pndm => steps,
            _ => steps - 1,
        };
        for (steps, sigma) in ladder.iter().enumerate().take(ladder.len() - 1).skip(1) {
            let found = case.state(&golden.meta, steps);
            // f32 rounding in diffusers grows with the size of its state.
            let tolerance = TOLERANCE * (sigma * case.scale(*sigma)).max(1.0);
            println!("{name} step {steps}");
            assert_close(&found[..4], &case.trace4[row(steps)], tolerance);
        }
    }
}

#[test]
fn our_ladders_are_diffusers() {
    let golden = golden();
    let named = [("euler_karras", Spacing::Karras), ("euler_exp", Spacing::Exponential)];
    for (prefix, spacing) in named {
        for (_, case) in golden.cases.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let expected = case.ladder();
            let found = spacing.sigmas(&case.schedule(), expected.len() - 1).unwrap();
            // diffusers' table is f32: it ends at 0.02916753, where f64 gives 0.02916716.
            let ratios: Vec<f64> = (0..found.len() - 1).map(|i| found[i] / expected[i]).collect();
            assert_close(&ratios, &vec![1.0; ratios.len()], 1.5e-5);
        }
    }
    for (_, case) in golden.cases.iter().filter(|(name, _)| name.starts_with("lcm")) {
        assert_close(&Spacing::Lcm.sigmas(&case.schedule(), case.timesteps.len()).unwrap(), &case.ladder(), 1e-12);
    }
    for (_, case) in golden.cases.iter().filter(|(name, _)| name.starts_with("ddpm_small")) {
        let spacing = if case.kw["timestep_spacing"] == "trailing" { Spacing::Trailing } else { Spacing::Leading };
        assert_close(&spacing.sigmas(&case.schedule(), case.timesteps.len()).unwrap(), &case.ladder(), 1e-12);
    }
}
