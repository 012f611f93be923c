//! Why a hub did not answer with content, in sentences that say what to do.

use super::exchange::Answer;
use super::patience::Trouble;
use crate::Error;
use crate::hub::Fault;
use crate::hub::repository::Repository;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use std::time::Duration;

/// What was asked for.
pub(super) struct Question<'a> {
    pub(super) repository: &'a Repository,
    /// A file, or else the listing.
    pub(super) file: Option<&'a str>,
    /// Whether the hub was shown a token.
    pub(super) with_token: bool,
}

/// What the answer means. One that is not the hub's own comes from a store, to which the hub sends us with an address
/// that holds for a while: it is worth asking the hub again.
pub(super) fn explain(question: &Question<'_>, answer: &Answer, from_hub: bool) -> Trouble {
    let status = answer.head.status.as_u16();
    match status {
        401 | 403 if from_hub => Error::Hub(question.denied(answer)).into(),
        404 | 410 if from_hub => Error::Hub(question.missing(answer)).into(),
        429 | 503 => busy(status, wanted_wait(answer.header("retry-after"), answer.header("date"))),
        _ => {
            let fault = Error::Hub(Fault::Broken(format!("{}: {}", question.what(), said(answer))));
            if status >= 500 || status == 408 || !from_hub { Trouble::again(fault) } else { fault.into() }
        }
    }
}

/// The seconds that a `Retry-After` asks for: a number, or a date (RFC 9110, section 10.2.3), which is the hub's: its
/// distance is from the answer's own `Date`, where there is one.
fn wanted_wait(retry_after: Option<&str>, date: Option<&str>) -> Option<u64> {
    let text = retry_after?.trim();
    text.parse().ok().or_else(|| {
        let now = date.and_then(moment).unwrap_or_else(Timestamp::now);
        Some(moment(text)?.duration_since(now).as_secs().try_into().unwrap_or(0))
    })
}

/// A date of HTTP, such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn moment(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

fn busy(status: u16, seconds: Option<u64>) -> Trouble {
    let again = seconds.map_or_else(|| "later".to_owned(), |seconds| format!("in {seconds} s"));
    let message = format!("the hub has too much to do ({status}); try again {again}: what is here already is kept");
    let error = Error::Hub(Fault::Busy { message, retry_after_seconds: seconds });
    Trouble::Again { error, after: seconds.map(Duration::from_secs) }
}

/// The status, and the hub's own words where it has some.
fn said(answer: &Answer) -> String {
    let status = answer.head.status;
    match answer.header("x-error-message") {
        Some(message) => format!("the hub answers {status} ({message})"),
        None => format!("the hub answers {status}"),
    }
}

impl Question<'_> {
    fn what(&self) -> String {
        match self.file {
            Some(file) => format!("{file} of {}", self.repository.id),
            None => self.repository.id.clone(),
        }
    }

    /// 401 and 403. Hubs say 401 to strangers also of what is not there at all, so that nobody can find out what is.
    fn denied(&self, answer: &Answer) -> Fault {
        let id = &self.repository.id;
        let gated = answer.header("x-error-code") == Some("GatedRepo");
        Fault::Denied(match (answer.head.status.as_u16(), self.with_token, gated) {
            (_, false, true) => format!(
                "{id} is gated: accept its licence on the model's page, then set HF_TOKEN to a token of that account"
            ),
            (403, true, true) => {
                format!("{id} is gated: accept its licence on the model's page with the token's account")
            }
            (401, true, _) => format!("{id}: the hub does not accept the token (401); put a valid one into HF_TOKEN"),
            (401, false, _) => format!(
                "{id} is not there, or not for everybody (401): check the name; if it is private or gated, set \
                 HF_TOKEN to a token of an account that may read it"
            ),
            _ => format!("{id}: {}; the account of HF_TOKEN has to be allowed to read it", said(answer)),
        })
    }

    fn missing(&self, answer: &Answer) -> Fault {
        let Repository { id, revision } = self.repository;
        Fault::Missing(match (answer.header("x-error-code"), self.file) {
            (Some("RevisionNotFound"), None) => format!("{id} has no revision {revision:?}"),
            (_, Some(file)) => format!("{id} has no file {file:?} any more; pull it again"),
            _ if self.with_token => format!("there is no {id}, or the account of HF_TOKEN may not see it"),
            _ => format!("there is no {id}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_number_of_seconds_or_a_date_of_the_hubs_clock() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let wait = |text| wanted_wait(Some(text), Some(date));
        assert_eq!([" 17 ", "Sun, 06 Nov 1994 08:51:07 GMT"].map(wait), [Some(17), Some(90)]);
        assert_eq!([date, "Sun, 06 Nov 1994 08:49:00 GMT"].map(wait), [Some(0); 2]);
        assert_eq!(["", "soon", "-1", "1.5"].map(wait), [None; 4]);
        assert_eq!((wanted_wait(None, Some(date)), wanted_wait(Some(date), None)), (None, Some(0)));
        let soon = Timestamp::now() + Duration::from_secs(100);
        let soon = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&soon).unwrap();
        assert!((95..=100).contains(&wanted_wait(Some(&soon), None).unwrap()));
    }
}
