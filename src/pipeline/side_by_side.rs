//! Independent pieces of one job, each on a core of its own: with the same bits as one after the other.

use crate::{Error, Result, kernels};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Does `work` for 0 up to `count`, and returns what came of it in that order. Each piece tells which share of it is done;
/// `on_progress`, on this thread, hears the sum of all shares, and stops all of them by returning an error.
pub(super) fn side_by_side<T: Send>(
    count: usize,
    work: impl Fn(usize, &mut dyn FnMut(f64) -> Result<()>) -> Result<T> + Sync,
    on_progress: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<Vec<T>> {
    let threads = if kernels::is_alone() { 1 } else { rayon::current_num_threads().min(count) };
    if threads <= 1 {
        return (0..count).map(|k| work(k, &mut |share| on_progress(k as f64 + share))).collect();
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let piece = |k: usize, sender: &mpsc::Sender<(usize, f64)>| {
        let outcome = work(k, &mut |share| {
            // Nobody listens any more when the job was stopped, and then this is too.
            let _ = sender.send((k, share));
            if stop.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
        });
        stop.fetch_or(outcome.is_err(), Ordering::Relaxed);
        outcome
    };
    let pieces = |sender: mpsc::Sender<(usize, f64)>| {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let k = next.fetch_add(1, Ordering::Relaxed);
            if k >= count {
                break;
            }
            done.push((k, piece(k, &sender)));
        }
        done
    };
    std::thread::scope(|scope| {
        let (pieces, stop) = (&pieces, &stop);
        let spawn = |sender| scope.spawn(move || kernels::on_this_thread(|| pieces(sender)));
        let workers: Vec<_> = (0..threads).map(|_| spawn(sender.clone())).collect();
        drop(sender);
        let told = listen(&receiver, count, on_progress);
        stop.fetch_or(told.is_err(), Ordering::Relaxed);
        let mut done = Vec::with_capacity(count);
        for worker in workers {
            done.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        told?;
        in_order(done)
    })
}

/// Passes on the sum of all shares until there is nobody left to tell of any.
fn listen(
    receiver: &mpsc::Receiver<(usize, f64)>,
    count: usize,
    on_progress: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    let mut shares = vec![0.0; count];
    for (k, share) in receiver {
        shares[k] = share;
        on_progress(shares.iter().sum())?;
    }
    Ok(())
}

/// All results, or what went wrong first: not that the others were stopped for it.
fn in_order<T>(mut done: Vec<(usize, Result<T>)>) -> Result<Vec<T>> {
    done.sort_by_key(|(k, _)| *k);
    let fault =
        done.iter().position(|(_, outcome)| matches!(outcome, Err(error) if !matches!(error, Error::Cancelled)));
    match fault {
        Some(at) => done.swap_remove(at).1.map(|_| Vec::new()),
        None => done.into_iter().map(|(_, outcome)| outcome).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_in_order_and_are_heard_of() {
        let mut heard = Vec::new();
        let done = side_by_side(
            5,
            |k, tell| {
                tell(0.5)?;
                tell(1.0).map(|()| k * k)
            },
            &mut |sum| {
                heard.push(sum);
                Ok(())
            },
        );
        assert_eq!(done.unwrap(), [0, 1, 4, 9, 16]);
        assert!(heard.len() == 10 && heard.windows(2).all(|pair| pair[0] < pair[1]) && heard[9] == 5.0, "{heard:?}");
    }

    #[test]
    fn a_fault_ends_all_and_is_named_and_so_does_whoever_listens() {
        let failing = side_by_side(
            8,
            |k, tell| {
                if k == 3 { Err(Error::NonFinite("three".into())) } else { (0..1000).try_for_each(|_| tell(0.1)) }
            },
            &mut |_| Ok(()),
        );
        assert!(matches!(failing, Err(Error::NonFinite(message)) if message == "three"));
        let stopped = side_by_side(8, |_, tell| (0..).try_for_each(|_| tell(0.1)), &mut |_| Err(Error::Cancelled));
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
