//! Likelihoods and rankings, by the pipeline.

use super::{LATENTS, PIXELS, request, run};
use crate::pipeline::photograph;
use limner::Error;
use limner::diffusion::schedule::{Betas, NoiseSchedule};
use limner::kernels::on_this_thread;
use limner::pipeline::{CaptionReport, Comparison, LikelihoodReport, Pipeline, Report};
use limner::request::{GenerateRequest, Plan};

fn likelihood(pipeline: &Pipeline, request: &GenerateRequest) -> LikelihoodReport {
    match run(pipeline, request).unwrap().report {
        Some(Report::Likelihood(report)) => *report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pixels_have_bits_and_a_bound() {
    let found = likelihood(&PIXELS, &request("likelihood", &[("draws", "3")]));
    assert_eq!((found.space, found.dimensions, found.draws.len()), ("pixels", 3 * 8 * 8, 3));
    assert_eq!(found.of, "the probability of the picture's bytes given \"red apple\"");
    let mean = found.draws.iter().sum::<f64>() / 3.0;
    let squares = found.draws.iter().map(|bits| (bits - mean).powi(2)).sum::<f64>();
    assert!((found.bits_per_dim - mean).abs() < 1e-12 && mean.is_finite());
    assert!((found.standard_error.unwrap() - (squares / 6.0).sqrt()).abs() < 1e-12);
    // -log2 p less the width of a bin.
    let bits = -found.log_density / (192.0 * std::f64::consts::LN_2) - (2f64 / 255.0).log2();
    assert!((bits - mean).abs() < 1e-9, "{bits} {mean}");
    let effort = found.effort;
    assert!(effort.evaluations == 3 + 6 * (effort.accepted + effort.rejected) && found.pixel_bound.is_none());
    let elbo = found.elbo.unwrap();
    assert_eq!((elbo.levels, elbo.rate_distortion.len()), (10, 10));
    assert!((elbo.prior + elbo.steps + elbo.reconstruction - elbo.bits_per_dim).abs() < 1e-9);
    assert!((found.sigma_min - 0.05).abs() < 1e-6 && (found.sigma_max - 20.0).abs() < 1e-6);
}

#[test]
fn latents_have_a_density_of_their_own_and_pixels_a_bound_through_the_decoder() {
    let found = likelihood(&LATENTS, &request("likelihood", &[("draws", "2"), ("prompt", "")]));
    assert_eq!(
        (found.space, found.dimensions, found.of.as_str()),
        ("latents", 64, "the density of the picture's latents")
    );
    assert!((-found.log_density / (64.0 * std::f64::consts::LN_2) - found.bits_per_dim).abs() < 1e-9);
    let bound = found.pixel_bound.unwrap();
    assert!((bound.latents + bound.reconstruction - bound.entropy - bound.bits_per_dim).abs() < 1e-9);
    // The same bits, spread over the pixels' numbers.
    assert!((bound.latents * 3.0 * 32.0 * 32.0 - found.bits_per_dim * 64.0).abs() < 1e-6);
    assert!(bound.reconstruction > 0.0 && found.elbo.is_some());
}

/// No estimate depends on how many others there are, nor on the cores that make them.
#[test]
fn a_draw_is_the_same_alone_and_in_company_and_on_one_core() {
    let three = likelihood(&PIXELS, &request("likelihood", &[("draws", "3")]));
    let one = likelihood(&PIXELS, &request("likelihood", &[("draws", "1")]));
    let third = likelihood(&PIXELS, &request("likelihood", &[("draws", "1"), ("seed", "9")]));
    assert_eq!((three.draws[0], three.draws[2]), (one.draws[0], third.draws[0]));
    assert_eq!(one.standard_error, None);
    let alone = on_this_thread(|| likelihood(&PIXELS, &request("likelihood", &[("draws", "3")])));
    assert_eq!((alone.draws, alone.bits_per_dim), (three.draws.clone(), three.bits_per_dim));
    assert_ne!(three.draws[0], three.draws[1]);
}

/// Probes estimate what the exact trace says; the 16 numbers of a small picture are few enough for it.
#[test]
fn probes_agree_with_the_exact_trace() {
    let by = |probes| {
        let set = [("draws", "1"), ("levels", "0"), ("width", "16"), ("height", "16"), ("probes", probes)];
        likelihood(&LATENTS, &request("likelihood", &set))
    };
    let (exact, probed) = (by("0"), by("32"));
    assert!(exact.standard_error.is_none() && exact.elbo.is_none());
    let error = probed.standard_error.unwrap();
    let off = (probed.bits_per_dim - exact.bits_per_dim).abs();
    assert!(off < 4.5 * error + 0.01 && error < 0.5, "{off} {error}");
}

#[test]
fn the_guided_flow_is_called_what_it_is() {
    let set = [("draws", "1"), ("guidance", "2"), ("guided_flow", "true"), ("levels", "0")];
    let found = likelihood(&LATENTS, &request("likelihood", &set));
    assert!(found.of.contains("guided flow (scale 2)") && found.of.ends_with("no likelihood"), "{}", found.of);
    assert!(found.pixel_bound.is_none());
    assert_ne!(found.bits_per_dim, likelihood(&LATENTS, &request("likelihood", &set[..1])).bits_per_dim);
}

#[test]
fn it_tells_where_it_is_and_stops() {
    let plan = Plan::new(&request("likelihood", &[("draws", "2")]), &PIXELS.facts()).unwrap();
    let mut heard = Vec::new();
    PIXELS
        .run(&plan, &mut |progress| {
            heard.push(progress.overall());
            Ok(())
        })
        .unwrap();
    assert!(heard.windows(2).all(|pair| pair[0].0 <= pair[1].0) && heard.last() == Some(&(210, 210)), "{heard:?}");
    let mut left = 3;
    let stopped = PIXELS.run(&plan, &mut |_| {
        left -= 1;
        if left > 0 { Ok(()) } else { Err(Error::Cancelled) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

fn ranked(request: &GenerateRequest) -> CaptionReport {
    match run(&LATENTS, request).unwrap().report {
        Some(Report::Rank(report)) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn captions_come_in_order_and_the_order_they_were_typed_in_does_not_matter() {
    let found = ranked(&request("rank", &[("captions", "red apple\nblue\ncat face")]));
    assert_eq!((found.captions.len(), found.levels, found.evaluations), (3, 10, 30));
    assert!(found.captions.windows(2).all(|pair| pair[0].nats <= pair[1].nats));
    assert!((found.captions.iter().map(|fit| fit.probability).sum::<f64>() - 1.0).abs() < 1e-9);
    let other = ranked(&request("rank", &[("captions", "cat face\nred apple\nblue")]));
    for (a, b) in found.captions.iter().zip(&other.captions) {
        assert_eq!((&a.caption, a.nats, a.behind, a.standard_error), (&b.caption, b.nats, b.behind, b.standard_error));
    }
    assert!(found.captions[1].standard_error > 0.0 && found.captions[1].behind > 0.0);
}

#[test]
fn schedules_of_the_same_ends_pay_the_same_for_them() {
    let (low, high) = (0.05f64, 20.0f64);
    let even = NoiseSchedule::new(Betas::LogLinear { low, high }, 100, false).unwrap();
    let bent = (0..100).map(|i| low.ln() + (high / low).ln() * (f64::from(i) / 99.0).powi(2)).collect();
    let schedules = vec![even, NoiseSchedule::from_log_sigmas(bent).unwrap()];
    let asked = Comparison { schedules, levels: vec![4, 8], draws: 3, seed: 1 };
    let bounds = PIXELS.bounds(&[photograph(8, 8)], &asked, &mut |_| Ok(())).unwrap();
    let [even, bent] = &bounds[0][..] else { panic!("{bounds:?}") };
    assert!((even.ends - bent.ends).abs() < 1e-5, "{} and {}", even.ends, bent.ends);
    assert!(even.draws.len() == 3 && even.chains.len() == 2 && even.draws != bent.draws && even.chains != bent.chains);
    assert!(even.chains.iter().chain(&bent.chains).all(|bits| bits.is_finite() && *bits > 0.0));
    let stopped = PIXELS.bounds(&[photograph(8, 8)], &asked, &mut |_| Err(Error::Cancelled));
    assert!(matches!(stopped, Err(Error::Cancelled)));
}
