"""A stand-in for a hosted Supabase project: REST and Auth over HTTP, row-level security by PostgreSQL itself."""

from local.services.supabase.app import create_gateway

__all__ = ["create_gateway"]
