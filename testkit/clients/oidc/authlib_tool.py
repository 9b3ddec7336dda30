"""A tool that lets people in by an OpenID provider, as Authlib does it. One deed a run; prints one line of JSON."""

import json
import sys

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.jose import JsonWebToken
from authlib.oidc.core import CodeIDToken

deed, given = sys.argv[1], json.loads(sys.argv[2])
places = requests.get(given["issuer"] + "/.well-known/openid-configuration", timeout=30).json()
assert places["issuer"] == given["issuer"], places["issuer"]
secret = given.get("secret")
# What the tool was made for, and nothing else.
algorithm = given["algorithm"]
assert algorithm in places["id_token_signing_alg_values_supported"], places
jwt = JsonWebToken([algorithm])
tool = OAuth2Session(
    given["id"],
    secret,
    scope=given.get("scope", "openid email profile"),
    redirect_uri=given["back"],
    code_challenge_method="S256",
    token_endpoint_auth_method=given.get("method", "client_secret_basic" if secret else "none"),
)


def known(token):
    keys = requests.get(places["jwks_uri"], timeout=30).json()
    rules = {
        "iss": {"essential": True, "value": places["issuer"]},
        "aud": {"essential": True, "value": given["id"]},
        "exp": {"essential": True},
        "iat": {"essential": True},
        "auth_time": {"essential": True},
    }
    said = {"client_id": given["id"], "access_token": token["access_token"]}
    if given.get("nonce"):
        said["nonce"] = given["nonce"]
    claims = jwt.decode(
        token["id_token"], keys, claims_cls=CodeIDToken, claims_options=rules, claims_params=said
    )
    claims.validate()
    info = tool.get(places["userinfo_endpoint"]).json()
    assert info["sub"] == claims["sub"], info
    return {"claims": claims, "info": info, "token": token}


try:
    if deed == "begin":
        url, state = tool.create_authorization_url(
            places["authorization_endpoint"],
            code_verifier=given["verifier"],
            nonce=given["nonce"],
            **given.get("more", {}),
        )
        found = {"url": url, "state": state}
    elif deed == "finish":
        token = tool.fetch_token(
            places["token_endpoint"],
            authorization_response=given["answer"],
            state=given["state"],
            code_verifier=given["verifier"],
        )
        found = known(token)
    elif deed == "refresh":
        found = known(tool.refresh_token(places["token_endpoint"], given["refresh_token"]))
    elif deed == "revoke":
        answer = tool.revoke_token(places["revocation_endpoint"], given["token"])
        found = {"status": answer.status_code}
    elif deed == "introspect":
        found = tool.introspect_token(places["introspection_endpoint"], given["token"]).json()
    elif deed == "logout":
        found = {"url": places["end_session_endpoint"]}
    else:
        sys.exit(f"no such deed: {deed}")
except Exception as error:  # noqa: BLE001  what a tool is told is what is looked at
    found = {"error": str(error)}
print(json.dumps(found))
