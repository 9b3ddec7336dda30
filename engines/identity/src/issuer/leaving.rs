use url::Url;

use super::Tool;
use crate::{Error, Identity};

/// A tool's link to sign out (OpenID Connect RP-Initiated Logout 1.0, section 2).
#[derive(Debug, Clone, Default)]
pub struct Leaving {
    pub id_token_hint: Option<String>,
    pub client_id: Option<String>,
    pub post_logout_redirect_uri: Option<String>,
    pub state: Option<String>,
}

const STATE_BYTES_MAX: usize = 1_000;

impl Identity {
    /// The name of the tool that asks to sign somebody out, if it says which, and where the browser goes after. A place
    /// that the tool did not name is an error, which goes to no tool.
    pub async fn leaving(
        &self,
        given: &Leaving,
    ) -> Result<(Option<String>, Option<String>), Error> {
        let tool = self.tool_that_asks(given).await?;
        let place = match (&given.post_logout_redirect_uri, &tool) {
            (Some(place), Some(tool)) => Some(tool.place_after(place)?),
            (Some(_), None) => return Err(Error::Redirect),
            (None, _) => None,
        };
        let place = place.map(|mut place: Url| {
            let state = given.state.as_deref().filter(|state| state.len() <= STATE_BYTES_MAX);
            if let Some(state) = state {
                place.query_pairs_mut().append_pair("state", state);
            }
            String::from(place)
        });
        Ok((tool.map(|tool| tool.name), place))
    }

    async fn tool_that_asks(&self, given: &Leaving) -> Result<Option<Tool>, Error> {
        let hinted = match &given.id_token_hint {
            Some(token) => {
                let claims = self.signed_here(token).await?.ok_or(Error::TokenInvalid)?;
                Some(claims["aud"].as_str().ok_or(Error::TokenInvalid)?.to_owned())
            }
            None => None,
        };
        let id = match (&hinted, &given.client_id) {
            (Some(hinted), Some(given)) if hinted != given => return Err(Error::TokenInvalid),
            (Some(id), _) | (None, Some(id)) => id,
            (None, None) => return Ok(None),
        };
        self.tool_by_text(id).await.map(Some)
    }
}
