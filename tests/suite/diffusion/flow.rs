//! The flow in both directions, held to the exact map of a mixture.

use super::analytic::{Gaussian, Mixture};
use super::{assert_close, row, values};
use limner::Error;
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::flow::{Course, Flow};
use limner::diffusion::noise::{NoiseKind, SeededNoise};
use limner::diffusion::rank::{Levels, rank};

const COURSE: Course = Course { low: 0.02, high: 40.0, tolerance: 1e-8 };

/// The flow keeps the share of all data that lies below: x_T = F_T^-1(F_0(x_0)).
#[test]
fn a_picture_goes_to_the_noise_of_its_quantile_and_back() {
    let shares = [0.02, 0.2, 0.31, 0.5, 0.77, 0.9, 0.99];
    let at = |sigma: f64| row(&shares.map(|share| Mixture::quantile(share, sigma)));
    let flow = Flow::new(&Mixture, COURSE);
    let (picture, noise) = (at(COURSE.low), at(COURSE.high));
    let (found, effort) = flow.encode(&picture, &mut |_| Ok(())).unwrap();
    // Compared relative to sigma: the way up magnifies everything by it.
    let relative = |x: &candle_core::Tensor| values(&(x / COURSE.high).unwrap());
    assert_close(&relative(&found), &relative(&noise), 1e-5);
    assert!(effort.evaluations == 1 + 6 * (effort.accepted + effort.rejected), "{effort:?}");
    let (back, _) = flow.decode(&noise, &mut |_| Ok(())).unwrap();
    assert_close(&values(&back), &values(&picture), 1e-6);
}

#[test]
fn the_round_trip_closes_as_the_tolerance_falls() {
    let picture = row(&[-1.4, -0.2, 0.5, 1.8]);
    let error = |tolerance: f64| {
        let flow = Flow::new(&Mixture, Course { tolerance, ..COURSE });
        let (noise, up) = flow.encode(&picture, &mut |_| Ok(())).unwrap();
        let (back, down) = flow.decode(&noise, &mut |_| Ok(())).unwrap();
        let off = values(&(back - &picture).unwrap()).into_iter().fold(0f64, |most, off| most.max(off.abs()));
        (off, up.evaluations + down.evaluations)
    };
    let [rough, middle, fine] = [1e-3, 1e-5, 1e-7].map(error);
    assert!(rough.0 < 0.1 && middle.0 < 2e-3 && fine.0 < 2e-5, "{rough:?} {middle:?} {fine:?}");
    assert!(rough.0 > middle.0 && middle.0 > fine.0 && rough.1 < middle.1 && middle.1 < fine.1);
}

#[test]
fn the_way_is_told_and_can_be_left() {
    let flow = Flow::new(&Mixture, COURSE);
    let mut told = Vec::new();
    let mut hear = |share| {
        told.push(share);
        Ok(())
    };
    flow.encode(&row(&[0.3]), &mut hear).unwrap();
    assert!(told.windows(2).all(|pair| pair[0] < pair[1]) && *told.last().unwrap() == 1.0, "{told:?}");
    let stopped = flow.encode(&row(&[0.3]), &mut |share| if share < 0.5 { Ok(()) } else { Err(Error::Cancelled) });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let not_finite = flow.encode(&row(&[f64::NAN]), &mut |_| Ok(()));
    assert!(matches!(not_finite, Err(Error::NonFinite(_))));
}

/// Of Gaussians of one variance the one whose mean is nearest fits best, by `(x - m)^2 / 2c` each, which is what the
/// bound's diffusion term differs by when it runs over all noise levels.
#[test]
fn captions_are_ranked_by_what_they_explain() {
    let picture = row(&(0..200).map(|i| 0.5 + 0.3 * f64::from(i).sin()).collect::<Vec<_>>());
    let means = [0.0, 0.5, 2.0];
    let gaussians = means.map(|mean| Gaussian { mean, variance: 0.25 });
    let denoisers: Vec<&dyn Denoiser> = gaussians.iter().map(|gaussian| gaussian as _).collect();
    let levels = Levels { low: 1e-3, high: 1e3, count: 400 };
    let mut noise = SeededNoise::new(NoiseKind::Philox, &[2]);
    let fits = rank(&denoisers, &picture, levels, &mut noise, &mut |_, _| Ok(())).unwrap();
    assert_eq!(fits.iter().map(|fit| fit.index).collect::<Vec<_>>(), [1, 0, 2]);
    let cost = |mean: f64| values(&picture).iter().map(|x| (x - mean).powi(2) / 0.5).sum::<f64>();
    for fit in &fits[1..] {
        let expected = cost(means[fit.index]) - cost(0.5);
        assert!((fit.behind - expected).abs() < 4.5 * fit.standard_error + 0.01 * expected, "{fit:?} {expected}");
        assert!(fit.standard_error < 0.2 * expected);
    }
}
