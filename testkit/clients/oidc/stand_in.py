"""A stand-in for Kakao (OpenID Connect) and Naver (OAuth 2 and a profile), with the shapes that their pages describe, and with
faults on demand. What is posted to /faults holds until the next."""

import base64
import hashlib
import hmac
import json
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from authlib.jose import JsonWebKey, jwt

PORT = int(sys.argv[1])
ISSUER = f"http://127.0.0.1:{PORT}"
KEY = JsonWebKey.generate_key("EC", "P-256", {"kid": "k1", "alg": "ES256", "use": "sig"}, is_private=True)
OTHER = JsonWebKey.generate_key("EC", "P-256", {"kid": "k1", "alg": "ES256", "use": "sig"}, is_private=True)
state = {"subject": "7"}
codes = {}
count = 0


def text(bytes_):
    return base64.urlsafe_b64encode(bytes_).rstrip(b"=").decode()


def id_token(shown):
    now = int(time.time()) + state.get("skew", 0)
    claims = {
        "iss": ISSUER,
        "aud": shown["client_id"],
        "sub": state["subject"],
        "iat": now,
        "exp": now + state.get("lasts", 21599),
        "auth_time": now,
        "nonce": shown["nonce"],
        "nickname": "민아",
    }
    if state.get("email") is not None:
        claims["email"] = state["email"]
        # Kakao's ID tokens do not say it; others do.
        if state.get("email_verified") is not None:
            claims["email_verified"] = state["email_verified"]
    claims.update(state.get("claims", {}))
    for name in state.get("without", []):
        claims.pop(name, None)
    head = {"kid": "k1", "typ": "JWT", "alg": "ES256"}
    how = state.get("signed", "right")
    if how == "right":
        return jwt.encode(head, claims, KEY).decode()
    if how == "other key":
        return jwt.encode(head, claims, OTHER).decode()
    if how == "changed":
        first, body, end = jwt.encode(head, claims, KEY).decode().split(".")
        return f"{first}.{text(json.dumps({**claims, 'sub': '666'}).encode())}.{end}"
    if how == "none":
        return f"{text(json.dumps({'alg': 'none', 'kid': 'k1'}).encode())}.{text(json.dumps(claims).encode())}."
    if how == "HS256":
        # The public key as a secret that everybody knows.
        said = f"{text(json.dumps({'alg': 'HS256', 'kid': 'k1'}).encode())}.{text(json.dumps(claims).encode())}"
        key = json.dumps(KEY.as_dict(is_private=False)).encode()
        return f"{said}.{text(hmac.new(key, said.encode(), hashlib.sha256).digest())}"
    raise ValueError(how)


def exchanged(form):
    """A code is good once, for who began and where it was sent."""
    shown = codes.pop(form.get("code"), None)
    if shown is None:
        return None
    verifier = text(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
    good = (
        form.get("grant_type") == "authorization_code"
        and form.get("client_id") == shown["client_id"]
        and form.get("client_secret") == "a secret of the client"
        and form.get("redirect_uri") == shown["redirect_uri"]
        and verifier == shown["code_challenge"]
    )
    return shown if good else None


class Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json;charset=UTF-8")
        self.send_header("content-length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def fault(self):
        broken = state.get("broken")
        if broken == "500":
            self.answer(500, {"msg": "internal"})
        elif broken == "garbage":
            self.answer(200, b"<html>")
        elif broken == "huge":
            self.answer(200, b" " * (1 << 20))
        elif broken == "moved":
            self.answer(302, {}, [("location", f"{ISSUER}/elsewhere")])
        return broken is not None

    def do_GET(self):
        global count
        place = urllib.parse.urlparse(self.path)
        shown = dict(urllib.parse.parse_qsl(place.query))
        if place.path in ("/oauth/authorize", "/oauth2.0/authorize"):
            count += 1
            code = f"code-{count}"
            codes[code] = shown
            back = urllib.parse.urlencode({"code": code, "state": shown["state"]})
            return self.answer(302, {}, [("location", f"{shown['redirect_uri']}?{back}")])
        if self.fault():
            return None
        if place.path == "/.well-known/openid-configuration":
            return self.answer(200, {
                "issuer": state.get("issuer", ISSUER),
                "authorization_endpoint": f"{ISSUER}/oauth/authorize",
                "token_endpoint": f"{ISSUER}/oauth/token",
                "userinfo_endpoint": f"{ISSUER}/v1/oidc/userinfo",
                "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
            })
        if place.path == "/.well-known/jwks.json":
            return self.answer(200, {"keys": [KEY.as_dict(is_private=False)]})
        if place.path == "/v1/nid/me":
            if self.headers.get("authorization") != "Bearer naver":
                return self.answer(401, {"resultcode": "024", "message": "Authentication failed"})
            profile = {"id": state["subject"], "email": state.get("email"), "nickname": "민아"}
            return self.answer(200, {"resultcode": "00", "message": "success", "response": profile})
        return self.answer(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/faults":
            state.clear()
            state.update({"subject": "7", **json.loads(body)})
            return self.answer(200, {})
        if self.fault():
            return None
        form = dict(urllib.parse.parse_qsl(body.decode()))
        shown = exchanged(form)
        if self.path == "/oauth/token":
            if shown is None:
                # Kakao's word for a code that is not good.
                return self.answer(400, {"error": "invalid_grant", "error_description": "authorization code not found", "error_code": "KOE320"})
            token = {"token_type": "bearer", "access_token": "a", "expires_in": 21599, "refresh_token": "r", "scope": "openid"}
            if not state.get("no_id_token"):
                token["id_token"] = id_token(shown)
            return self.answer(200, token)
        if self.path == "/oauth2.0/token":
            # Naver says what is wrong under 200, and writes numbers as text.
            if shown is None:
                return self.answer(200, {"error": "invalid_request", "error_description": "no valid data in session"})
            return self.answer(200, {"access_token": "naver", "token_type": "bearer", "expires_in": "3600"})
        return self.answer(404, {})


ThreadingHTTPServer(("127.0.0.1", PORT), Door).serve_forever()
