//! What probes are made for, and the numbers that say so.

/// Names what a probe is made for, for the life of the agent. The two highest bits say what that is, the others are a number
/// of that kind: whoever counts, none has a number of another.
///
/// ```text
///  00 │ number    the check with this number              health
///  01 │ number    the detailed plan of that check         health
///  10 │ number    the restart command with this number    remedy
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub u64);

/// What a probe is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// To judge a service.
    Check = 0,
    /// To say more of a service that deviates.
    Plan = 1 << 62,
    /// To start a service anew.
    Command = 1 << 63,
}

/// Where the number stands.
const NUMBER: u64 = (1 << 62) - 1;

impl CheckId {
    /// What is made for this, with this number of its kind; below 2^62.
    pub fn new(purpose: Purpose, number: u64) -> Self {
        Self(purpose as u64 | number & NUMBER)
    }

    /// `None`: nothing that this version knows.
    pub fn purpose(self) -> Option<Purpose> {
        let is = |purpose: &Purpose| *purpose as u64 == self.0 & !NUMBER;
        [Purpose::Check, Purpose::Plan, Purpose::Command].into_iter().find(is)
    }

    /// What has the same number, for another purpose.
    pub fn with(self, purpose: Purpose) -> Self {
        Self::new(purpose, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_probe_is_for_can_be_told_by_its_number() {
        let purposes = [Purpose::Check, Purpose::Plan, Purpose::Command];
        for (purpose, number) in purposes.into_iter().flat_map(|purpose| [0, 1, NUMBER].map(|number| (purpose, number)))
        {
            let id = CheckId::new(purpose, number);
            assert_eq!((id.purpose(), id.with(Purpose::Check)), (Some(purpose), CheckId(number)));
        }
        assert_eq!(CheckId(u64::MAX).purpose(), None);
    }
}
