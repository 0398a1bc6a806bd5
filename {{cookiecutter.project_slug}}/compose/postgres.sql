-- Run once, when the database's volume is made: what the service logs in as, and what it owns. Not a
-- superuser, as in production.
\getenv password SERVICE_PASSWORD
CREATE ROLE service LOGIN PASSWORD :'password';
CREATE DATABASE service OWNER service;
{%- if cookiecutter.auth == "supabase" %}

-- The role of callers, which is there on Supabase. The service may take it, and has none of its rights
-- before.
CREATE ROLE authenticated NOLOGIN NOINHERIT;
GRANT authenticated TO service WITH INHERIT FALSE;
{%- endif %}
