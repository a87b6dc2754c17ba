//! A case: something that is made once and then called again and again, by divan's clock or under callgrind.
//! Every call has its result hidden from the compiler, so that none is optimised away.

use std::fmt;

use divan::Bencher;

/// Calls in one of divan's samples. Left to itself it may find on a busy machine that one is enough, which its clock can't see.
pub const SAMPLE_SIZE: u32 = 1_000;

/// Samples of what takes milliseconds.
pub const SLOW_SAMPLE_COUNT: u32 = 20;

/// What is called; it hides its own results.
pub type Work = Box<dyn FnMut()>;

pub struct Case {
    /// Unique, e.g. `route/10,000 routes/found`.
    pub name: &'static str,
    /// Prepares everything that is not to be measured.
    pub make: fn() -> Work,
    /// How often it is called to count its instructions.
    pub times: u64,
}

/// What takes less than a microsecond or a little more: often, since seldom work (a table that grows) is part of it.
pub const fn case(name: &'static str, make: fn() -> Work) -> Case {
    Case { name, make, times: 1_000 }
}

/// What takes milliseconds.
pub const fn slow(name: &'static str, make: fn() -> Work) -> Case {
    Case { name, make, times: 1 }
}

impl Case {
    /// Has divan measure it.
    pub fn bench(&self, bencher: Bencher<'_, '_>) {
        bencher.bench_local((self.make)());
    }

    /// Runs it so often, for callgrind.
    pub fn count(&self, times: u64) {
        let mut work = (self.make)();
        // Lazy parts and caches are not the work's own cost.
        work();
        counted(&mut *work, times);
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Callgrind collects within this function only; its name is in `scripts/bench_micro.sh`.
#[inline(never)]
pub fn counted(work: &mut dyn FnMut(), times: u64) {
    for _ in 0..times {
        work();
    }
}

/// Hides the result of `work` from the compiler.
pub fn work<T>(mut work: impl FnMut() -> T + 'static) -> Work {
    Box::new(move || {
        divan::black_box(work());
    })
}
