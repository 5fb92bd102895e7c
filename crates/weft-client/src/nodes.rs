//! Nodes, tokens, events and versions.

use reqwest::Method;
use weft_api::{
    EventView, NodePatch, NodeView, TokenCreated, TokenRequest, TokenView, VersionView,
};

use crate::client::CALL_TIMEOUT;
use crate::lines::Framing;
use crate::{Client, Error, Lines};

/// The most nodes or tokens that a list call gathers.
const MAX_LISTED: usize = 100_000;

impl Client {
    /// All nodes.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, Error> {
        self.pages("/v1/nodes", MAX_LISTED).await
    }

    /// One node, by its id or a unique prefix.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn node(&self, id: &str) -> Result<NodeView, Error> {
        self.get(&format!("/v1/nodes/{id}")).await
    }

    /// Cordons, drains, reopens or approves a node.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn patch_node(&self, id: &str, patch: &NodePatch) -> Result<NodeView, Error> {
        let request = self
            .request(Method::PATCH, &format!("/v1/nodes/{id}"))
            .timeout(CALL_TIMEOUT)
            .json(patch);
        self.json(request).await
    }

    /// Removes a node for good: its certificate opens nothing any more.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn remove_node(&self, id: &str) -> Result<(), Error> {
        self.delete(&format!("/v1/nodes/{id}")).await
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenCreated, Error> {
        self.post("/v1/tokens", request).await
    }

    /// All join tokens that are good.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, Error> {
        self.pages("/v1/tokens", MAX_LISTED).await
    }

    /// Makes a join token worthless.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn remove_token(&self, id: &str) -> Result<(), Error> {
        self.delete(&format!("/v1/tokens/{id}")).await
    }

    /// Events after `since`; with `follow` the stream does not end.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn events(
        &self,
        since: Option<u64>,
        follow: bool,
    ) -> Result<Lines<EventView>, Error> {
        let mut request = self
            .request(Method::GET, "/v1/events")
            .header("accept", "text/event-stream")
            .query(&[("follow", follow)]);
        if let Some(since) = since {
            request = request.query(&[("since", since)]);
        }
        Ok(Lines::new(
            self.send(request).await?,
            Framing::ServerSentEvents,
        ))
    }

    /// Versions of the server and its nodes.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn version(&self) -> Result<VersionView, Error> {
        self.get("/v1/version").await
    }
}
