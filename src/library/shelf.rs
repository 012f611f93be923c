//! What is in memory, and which of it has to go. Knows nothing of models but what they take.

use super::stamp::Stamp;
use std::sync::Arc;

/// A thing that takes memory: more or less of it as it is used.
pub(super) trait Weigh {
    fn bytes(&self) -> u64;
}

/// Things in memory that together take no more than a budget.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    budget: u64,
    held: Vec<Held<T>>,
    /// Counts up with every use, to tell which was the earlier.
    clock: u64,
}

/// A thing in memory. It is in use as long as somebody else has a share in it.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) name: String,
    /// Its files, as they were when it was loaded.
    pub(super) stamp: Stamp,
    used: u64,
    thing: Arc<T>,
}

/// What became of the wish for room.
#[derive(Debug)]
pub(super) struct Room<T> {
    /// What was taken off the shelf, to be dropped.
    pub(super) gone: Vec<Held<T>>,
    /// Whether there is room now. If not, what is in use has to come back first.
    pub(super) enough: bool,
}

/// What became of the wish to have a thing taken off.
#[derive(Debug)]
pub(super) enum Taken<T> {
    Gone(Held<T>),
    InUse,
    NotHere,
}

impl<T: Weigh> Held<T> {
    /// What it takes now.
    pub(super) fn bytes(&self) -> u64 {
        self.thing.bytes()
    }

    pub(super) fn in_use(&self) -> bool {
        Arc::strong_count(&self.thing) > 1
    }
}

impl<T: Weigh> Shelf<T> {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, held: Vec::new(), clock: 0 }
    }

    pub(super) fn held(&self) -> &[Held<T>] {
        &self.held
    }

    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    fn bytes(&self) -> u64 {
        self.held.iter().map(Held::bytes).sum()
    }

    /// What the things called `name` take.
    pub(super) fn bytes_of(&self, name: &str) -> u64 {
        self.held.iter().filter(|held| held.name == name).map(Held::bytes).sum()
    }

    /// A share in the thing called `name`, if it is the one that `stamp` shows. Counts as a use.
    pub(super) fn get(&mut self, name: &str, stamp: &Stamp) -> Option<Arc<T>> {
        self.clock += 1;
        let held = self.held.iter_mut().find(|held| held.name == name && held.stamp == *stamp)?;
        held.used = self.clock;
        Some(held.thing.clone())
    }

    /// The same, without counting as a use.
    pub(super) fn peek(&self, name: &str, stamp: &Stamp) -> Option<Arc<T>> {
        self.held.iter().find(|held| held.name == name && held.stamp == *stamp).map(|held| held.thing.clone())
    }

    /// Takes off what has to go so that a thing called `name` of so many bytes fits: what was called so before, and then
    /// what was used the longest time ago; never what is in use. Nothing goes where that would not be enough.
    pub(super) fn make_room(&mut self, name: &str, bytes: u64) -> Room<T> {
        let mut order: Vec<usize> = (0..self.held.len()).filter(|&i| !self.held[i].in_use()).collect();
        order.sort_by_key(|&i| (self.held[i].name != name, self.held[i].used));
        let mut left = self.bytes().saturating_add(bytes);
        let mut going = Vec::new();
        for i in order {
            if left <= self.budget && self.held[i].name != name {
                break;
            }
            left = left.saturating_sub(self.held[i].bytes());
            going.push(i);
        }
        if left > self.budget {
            return Room { gone: Vec::new(), enough: false };
        }
        going.sort_unstable();
        let gone = going.into_iter().rev().map(|i| self.held.remove(i)).collect();
        Room { gone, enough: true }
    }

    /// Puts a thing that was made room for, and returns a share in it.
    pub(super) fn put(&mut self, name: String, stamp: Stamp, thing: T) -> Arc<T> {
        self.clock += 1;
        let thing = Arc::new(thing);
        self.held.push(Held { name, stamp, used: self.clock, thing: thing.clone() });
        thing
    }

    pub(super) fn take(&mut self, name: &str) -> Taken<T> {
        match self.held.iter().position(|held| held.name == name) {
            None => Taken::NotHere,
            Some(i) if self.held[i].in_use() => Taken::InUse,
            Some(i) => Taken::Gone(self.held.remove(i)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    /// Takes so many bytes.
    #[derive(Debug)]
    struct Thing(Cell<u64>);

    impl Weigh for Thing {
        fn bytes(&self) -> u64 {
            self.0.get()
        }
    }

    fn put(shelf: &mut Shelf<Thing>, name: &str, bytes: u64) -> Arc<Thing> {
        shelf.put(name.to_owned(), Stamp::default(), Thing(Cell::new(bytes)))
    }

    fn names(held: &[Held<Thing>]) -> Vec<&str> {
        held.iter().map(|held| held.name.as_str()).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        let mut shelf = Shelf::new(10);
        for (name, bytes) in [("a", 4), ("b", 3), ("c", 3)] {
            put(&mut shelf, name, bytes);
        }
        assert!(shelf.get("a", &Stamp::default()).is_some());
        let room = shelf.make_room("d", 2);
        assert_eq!((names(&room.gone), room.enough, names(shelf.held())), (vec!["b"], true, vec!["a", "c"]));
        assert!(shelf.peek("c", &Stamp::default()).is_some(), "a look is no use");
        let room = shelf.make_room("d", 6);
        assert_eq!((names(&room.gone), names(shelf.held())), (vec!["c"], vec!["a"]));
    }

    #[test]
    fn what_is_in_use_stays_and_nothing_goes_in_vain() {
        let mut shelf = Shelf::new(10);
        let lent = put(&mut shelf, "a", 6);
        put(&mut shelf, "b", 4);
        let room = shelf.make_room("c", 5);
        assert_eq!((room.gone.len(), room.enough, names(shelf.held())), (0, false, vec!["a", "b"]));
        assert!(matches!(shelf.take("a"), Taken::InUse) && matches!(shelf.take("z"), Taken::NotHere));
        drop(lent);
        let room = shelf.make_room("c", 5);
        assert_eq!((names(&room.gone), room.enough, names(shelf.held())), (vec!["a"], true, vec!["b"]));
        assert!(matches!(shelf.take("b"), Taken::Gone(held) if held.bytes() == 4));
    }

    #[test]
    fn what_grows_as_it_is_used_is_counted_as_it_is() {
        let mut shelf = Shelf::new(10);
        put(&mut shelf, "a", 4).0.set(8);
        assert_eq!(names(&shelf.make_room("b", 4).gone), ["a"]);
    }

    #[test]
    fn an_older_one_of_the_same_name_goes_in_any_case() {
        let mut shelf = Shelf::new(10);
        put(&mut shelf, "a", 3);
        put(&mut shelf, "b", 3);
        let room = shelf.make_room("b", 3);
        assert_eq!((names(&room.gone), names(shelf.held())), (vec!["b"], vec!["a"]));
    }

    proptest! {
        /// Whatever is asked for and held on to: the budget is kept, nobody loses what they use, and what went was used
        /// less recently than what could have gone and stayed.
        #[test]
        fn the_budget_is_kept_and_users_keep_what_they_use(asked in proptest::collection::vec((0..6usize, 1..8u64, any::<bool>()), 1..60)) {
            let mut shelf = Shelf::new(16);
            let mut used: Vec<(String, Arc<Thing>)> = Vec::new();
            for (which, bytes, keep) in asked {
                let name = which.to_string();
                used.retain(|(other, _)| keep || *other != name);
                let share = shelf.get(&name, &Stamp::default()).or_else(|| {
                    let before: Vec<(String, u64, bool)> =
                        shelf.held.iter().map(|held| (held.name.clone(), held.used, held.in_use())).collect();
                    let Room { gone, enough } = shelf.make_room(&name, bytes);
                    let last = gone.iter().map(|held| held.used).max().unwrap_or(0);
                    for (name, used, in_use) in before {
                        let stayed = shelf.held.iter().any(|held| held.name == name);
                        assert!(stayed || (!in_use && enough));
                        assert!(!stayed || in_use || gone.is_empty() || used > last);
                    }
                    enough.then(|| put(&mut shelf, &name, bytes))
                });
                prop_assert!(shelf.bytes() <= 16);
                used.extend(share.filter(|_| keep).map(|share| (name, share)));
                for (name, _) in &used {
                    prop_assert!(shelf.held.iter().any(|held| held.name == *name));
                }
            }
        }
    }
}
