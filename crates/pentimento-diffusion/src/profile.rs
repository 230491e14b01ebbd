//! Where the time goes: floating-point operations and seconds per kind of layer.
//!
//! Counted by `ops` on the thread that calls it, and only inside [`profiled`]; elsewhere it costs one look at a
//! thread-local. A multiply-add counts as two operations, as performance figures of others do; norms and activations
//! count none, since memory and not arithmetic bounds them. The engine has no clock: whoever asks brings one.

use std::{cell::RefCell, time::Duration};

/// A kind of layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// 3×3 convolutions (and larger ones).
    Conv3x3,
    /// 1×1 convolutions.
    Conv1x1,
    /// Products with weights.
    Linear,
    /// Products of queries, keys and values.
    Attention,
    /// Norms over groups of channels.
    GroupNorm,
    /// Norms over tokens' channels.
    LayerNorm,
}

impl LayerKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Conv3x3, Self::Conv1x1, Self::Linear, Self::Attention, Self::GroupNorm, Self::LayerNorm];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conv3x3 => "conv 3x3",
            Self::Conv1x1 => "conv 1x1",
            Self::Linear => "linear",
            Self::Attention => "attention",
            Self::GroupNorm => "group norm",
            Self::LayerNorm => "layer norm",
        }
    }
}

/// What some work took.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// One entry for each of [`LayerKind::ALL`], in its order.
    pub layers: [LayerProfile; LayerKind::ALL.len()],
    /// The whole of the work, what lies between the layers included.
    pub took: Duration,
}

/// What the layers of one kind took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerProfile {
    /// Times that one was called.
    pub calls: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// Time inside them.
    pub took: Duration,
}

impl Profile {
    /// Floating-point operations of all layers.
    pub fn flops(&self) -> u64 {
        self.layers.iter().map(|layer| layer.flops).sum()
    }
}

/// Time since some fixed moment.
pub type Clock = fn() -> Duration;

/// A profile being taken.
struct Running {
    clock: Clock,
    layers: [LayerProfile; LayerKind::ALL.len()],
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Does some work on this thread and tells what it took. Profiles do not nest: an inner one is its own.
pub fn profiled<T>(clock: Clock, work: impl FnOnce() -> T) -> (T, Profile) {
    let outer = RUNNING.replace(Some(Running { clock, layers: Default::default() }));
    let since = clock();
    let result = work();
    let took = clock().saturating_sub(since);
    let layers = RUNNING.replace(outer).map(|running| running.layers).unwrap_or_default();
    (result, Profile { layers, took })
}

/// Does a layer's work and counts it where somebody asked.
pub(crate) fn layer<T>(kind: LayerKind, flops: u64, work: impl FnOnce() -> T) -> T {
    let Some(clock) = RUNNING.with_borrow(|running| running.as_ref().map(|running| running.clock)) else {
        return work();
    };
    let since = clock();
    let result = work();
    let took = clock().saturating_sub(since);
    RUNNING.with_borrow_mut(|running| {
        if let Some(entry) = running.as_mut().and_then(|running| running.layers.get_mut(kind as usize)) {
            *entry =
                LayerProfile { calls: entry.calls + 1, flops: entry.flops + flops, took: entry.took + took };
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_time() -> Duration {
        Duration::ZERO
    }

    #[test]
    fn only_what_runs_inside_is_counted() {
        layer(LayerKind::Linear, 1, || ());
        let (inner, profile) = profiled(no_time, || {
            layer(LayerKind::Linear, 10, || ());
            layer(LayerKind::Linear, 5, || ());
            layer(LayerKind::GroupNorm, 0, || 7)
        });
        assert_eq!(inner, 7);
        let counted = |kind: LayerKind| profile.layers[kind as usize];
        assert_eq!((counted(LayerKind::Linear).calls, counted(LayerKind::Linear).flops), (2, 15));
        assert_eq!(counted(LayerKind::GroupNorm).calls, 1);
        assert_eq!(profile.flops(), 15);
        assert!(RUNNING.with_borrow(Option::is_none));
    }

    #[test]
    fn the_kinds_are_told_apart() {
        for (index, kind) in LayerKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            assert!(LayerKind::ALL[..index].iter().all(|other| other.name() != kind.name()));
        }
    }
}
