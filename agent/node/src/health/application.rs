//! How well a container is: its score, and what a score means for its kind of application.

use ringmesh_proto::v1::verdict::Value;

use super::spec::ScoreLimits;

/// What the services of a container are worth together, by their weights.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    total: u32,
    /// Twice the weight of what passes, once of what has a warning.
    good: u32,
    /// Twice the weight of what is not verified.
    unknown: u32,
    worst: Value,
}

impl Tally {
    pub(super) fn add(&mut self, verdict: Value, weight: u32) {
        self.total += weight;
        match verdict {
            Value::Passing => self.good += 2 * weight,
            Value::Warning => self.good += weight,
            Value::Critical => {}
            Value::Unknown => self.unknown += 2 * weight,
        }
        self.worst = self.worst.max(verdict);
    }

    /// 0 to 100: the share that passes, by weight; of a warning half counts, and nothing of what is not verified.
    pub(super) fn score(&self) -> u32 {
        self.share(self.good)
    }

    fn share(&self, good: u32) -> u32 {
        (good * 50).checked_div(self.total).unwrap_or(100)
    }

    /// The worst of the services' verdicts; with limits, what the score says.
    pub(super) fn verdict(&self, limits: Option<ScoreLimits>) -> Value {
        let Some(limits) = limits else {
            let fine = self.worst <= Value::Passing;
            return match self.unknown {
                0 if fine => Value::Passing,
                _ if fine => Value::Unknown,
                _ => self.worst,
            };
        };
        // What is not verified may yet pass: as long as that makes a difference, no more is known than the better of the two.
        match (limits.judge(self.score()), limits.judge(self.share(self.good + self.unknown))) {
            (least, most) if least == most => least,
            (_, Value::Passing) => Value::Unknown,
            (_, most) => most,
        }
    }
}

impl ScoreLimits {
    fn judge(self, score: u32) -> Value {
        if score < self.critical_below {
            Value::Critical
        } else if score < self.warning_below {
            Value::Warning
        } else {
            Value::Passing
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Option<ScoreLimits> = Some(ScoreLimits { warning_below: 90, critical_below: 50 });

    /// Verdicts and weights.
    type Services<'a> = &'a [(Value, u32)];

    fn tally(verdicts: Services<'_>) -> Tally {
        let mut tally = Tally::default();
        verdicts.iter().for_each(|(verdict, weight)| tally.add(*verdict, *weight));
        tally
    }

    #[test]
    fn without_limits_the_worst_service_counts() {
        use Value::{Critical, Passing, Unknown, Warning};
        let cases: [(Services<'_>, u32, Value); 6] = [
            (&[], 100, Passing),
            (&[(Passing, 1), (Passing, 5)], 100, Passing),
            (&[(Passing, 3), (Critical, 1)], 75, Critical),
            (&[(Passing, 1), (Warning, 1)], 75, Warning),
            (&[(Passing, 1), (Unknown, 1)], 50, Unknown),
            (&[(Unknown, 1), (Critical, 1)], 0, Critical),
        ];
        for (verdicts, score, verdict) in cases {
            let tally = tally(verdicts);
            assert_eq!((tally.score(), tally.verdict(None)), (score, verdict), "{verdicts:?}");
        }
    }

    #[test]
    fn with_limits_the_score_counts() {
        use Value::{Critical, Passing, Unknown, Warning};
        let cases: [(Services<'_>, Value); 6] = [
            (&[(Passing, 19), (Critical, 1)], Passing),
            (&[(Passing, 3), (Critical, 1)], Warning),
            (&[(Passing, 1), (Critical, 2)], Critical),
            (&[(Passing, 1), (Unknown, 1)], Unknown),
            (&[(Unknown, 10), (Critical, 4)], Warning),
            (&[(Unknown, 1), (Critical, 2)], Critical),
        ];
        for (verdicts, verdict) in cases {
            assert_eq!(tally(verdicts).verdict(LIMITS), verdict, "{verdicts:?}");
        }
    }

    proptest! {
        #[test]
        fn a_service_that_becomes_better_makes_no_container_worse(
            weights in proptest::collection::vec((0u8..4, 1u32..1000), 1..20), warning in 0u32..=100, critical in 0u32..=100,
        ) {
            let limits = Some(ScoreLimits { warning_below: warning.max(critical), critical_below: critical.min(warning) });
            let verdict = |number: u8| Value::try_from(i32::from(number)).unwrap_or_default();
            let before: Vec<(Value, u32)> = weights.iter().map(|(number, weight)| (verdict(*number), *weight)).collect();
            let mut after = before.clone();
            after[0].0 = Value::Passing;
            let (before, after) = (tally(&before), tally(&after));
            prop_assert!(after.score() >= before.score());
            if before.unknown == 0 {
                prop_assert!(after.verdict(limits) <= before.verdict(limits));
            }
        }
    }
}
