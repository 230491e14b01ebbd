//! Breaking off inside a step.
//!
//! A step of a large model takes seconds on a processor, and a client that leaves should not be drawn for that long. The
//! switch is looked at by the layers (`ops`, the autoencoder's blocks) on the thread that draws, so that networks and
//! samplers need not know of it: a layer that finds it thrown fails, and the request ends as cancelled.

use crate::error::Result;
use pentimento_request::Cancel;
use std::cell::RefCell;

thread_local! {
    static SWITCH: RefCell<Option<Cancel>> = const { RefCell::new(None) };
}

/// Does some work on this thread whose layers obey this switch; `None`: they obey none.
pub(crate) fn obeying<T>(switch: Option<Cancel>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Cancel>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SWITCH.replace(self.0.take());
        }
    }
    let _restore = Restore(SWITCH.replace(switch));
    work()
}

/// Fails once the switch was thrown.
pub(crate) fn check() -> Result<()> {
    match SWITCH.with_borrow(|switch| switch.as_ref().is_some_and(Cancel::is_cancelled)) {
        true => Err(candle_core::Error::Msg("broken off inside a step".to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_fail_while_the_switch_is_thrown_and_only_inside() {
        let switch = Cancel::default();
        obeying(Some(switch.clone()), || {
            assert!(check().is_ok());
            switch.cancel();
            assert!(check().is_err());
            obeying(None, || assert!(check().is_ok()));
            assert!(check().is_err());
        });
        assert!(check().is_ok());
    }
}
