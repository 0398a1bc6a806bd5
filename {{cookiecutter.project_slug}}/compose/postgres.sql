-- Run once, when the database's volume is made: what the service logs in as, and what it owns. Not a
-- superuser, as in production.
\getenv password SERVICE_PASSWORD
CREATE ROLE service LOGIN PASSWORD :'password';
CREATE DATABASE service OWNER service;
