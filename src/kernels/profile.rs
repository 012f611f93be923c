//! Where the time goes: what each kernel took, by its sizes and by the part of the network that called it.
//!
//! Nothing is noted, and nothing is lost but a look at a flag, unless [`noted`] is running on the thread.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// One call of a kernel.
#[derive(Debug, Clone)]
pub struct Call {
    /// The part of the network.
    pub part: String,
    /// The kernel and its sizes.
    pub kernel: String,
    /// How long it took.
    pub took: Duration,
    /// Additions and multiplications that it stands for, done in whatever way.
    pub flops: f64,
}

#[derive(Default)]
struct Notes {
    calls: Vec<Call>,
    part: String,
    /// Within a kernel that calls others.
    deep: bool,
}

thread_local! {
    static NOTES: RefCell<Option<Notes>> = const { RefCell::new(None) };
}

/// What `f` gives, and every kernel that it called on this thread, in order. Kernels within kernels are not told.
pub fn noted<R>(f: impl FnOnce() -> R) -> (R, Vec<Call>) {
    NOTES.set(Some(Notes::default()));
    let result = f();
    (result, NOTES.take().unwrap_or_default().calls)
}

/// Runs `f` as a part of the network, of a name that is only made where it is noted.
pub fn part<R>(name: impl FnOnce() -> String, f: impl FnOnce() -> R) -> R {
    let before = NOTES.with_borrow_mut(|notes| notes.as_mut().map(|notes| std::mem::replace(&mut notes.part, name())));
    let result = f();
    NOTES.with_borrow_mut(|notes| {
        if let (Some(notes), Some(before)) = (notes, before) {
            notes.part = before;
        }
    });
    result
}

/// A kernel at work, until it is dropped.
pub(super) struct Span(Option<(Instant, String, f64)>);

/// Begins a kernel. Where that is noted, `what` tells its name with its sizes, and how much it computes.
pub(super) fn kernel(what: impl FnOnce() -> (String, f64)) -> Span {
    let enter = |notes: &mut Notes| !std::mem::replace(&mut notes.deep, true);
    let enters = NOTES.with_borrow_mut(|notes| notes.as_mut().is_some_and(enter));
    Span(enters.then(|| {
        let (kernel, flops) = what();
        (Instant::now(), kernel, flops)
    }))
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some((began, kernel, flops)) = self.0.take() else { return };
        let took = began.elapsed();
        NOTES.with_borrow_mut(|notes| {
            if let Some(notes) = notes {
                notes.deep = false;
                notes.calls.push(Call { part: notes.part.clone(), kernel, took, flops });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_noted_with_their_part_and_those_within_are_not() {
        let work = |name: &str| drop(kernel(|| (name.to_owned(), 1.0)));
        work("before");
        let ((), calls) = noted(|| {
            part(
                || "a".into(),
                || {
                    let _outer = kernel(|| ("outer".into(), 2.0));
                    work("inner");
                },
            );
            work("after");
        });
        let told: Vec<_> = calls.iter().map(|call| (call.part.as_str(), call.kernel.as_str(), call.flops)).collect();
        assert_eq!(told, [("a", "outer", 2.0), ("", "after", 1.0)]);
        assert!(noted(|| ()).1.is_empty());
    }
}
