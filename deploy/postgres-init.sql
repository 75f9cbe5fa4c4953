-- Run once by PostgreSQL's image, on an empty volume, by its superuser. heedful's own account is none: a superuser could
-- switch the triggers of the audit chain off (docs/store.md).
\set password `cat /run/secrets/db_password`
CREATE ROLE heedful LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE heedful OWNER heedful;
REVOKE ALL ON DATABASE heedful FROM PUBLIC;
