-- Keys for programs. The database knows only a key's SHA-256: whoever reads the table has no key.

create table public.api_keys (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null constraint api_keys_user_id_fkey references public.users (id) on delete cascade,
    name text not null constraint api_keys_name_check check (length(name) between 1 and 100),
    key_hash text not null constraint api_keys_key_hash_key unique
        constraint api_keys_key_hash_check check (key_hash ~ '^[0-9a-f]{64}$'),
    hint text not null,                       -- the key's last characters, for a person to recognise it by
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz                  -- at most a minute old
);
create index idx_api_keys_user_id on public.api_keys (user_id, created_at desc);

alter table public.api_keys enable row level security;
create policy "Users can view own api keys" on public.api_keys for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can revoke own api keys" on public.api_keys for delete to authenticated
    using ((select auth.uid()) = user_id);
revoke all on public.api_keys from anon, authenticated;
grant select (id, user_id, name, hint, created_at, expires_at, last_used_at), delete on public.api_keys to authenticated;
grant all on public.api_keys to service_role;

-- Stores a new key's hash. PT401: nobody is signed in. PT409: the user has as many keys as one may have.
create function public.create_api_key(p_name text, p_key_hash text, p_hint text, p_expires_at timestamptz default null)
returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_key public.api_keys;
begin
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('api keys of ' || v_user, 3));
    if (select count(*) from public.api_keys k where k.user_id = v_user) >= 50 then
        raise sqlstate 'PT409' using message = 'too_many_api_keys';
    end if;
    insert into public.api_keys (user_id, name, key_hash, hint, expires_at)
    values (v_user, p_name, p_key_hash, p_hint, p_expires_at)
    returning * into v_key;
    return to_jsonb(v_key) - 'key_hash' - 'user_id';
end $$;

-- Whose valid key has this hash; null when nobody's. Anybody may ask: nobody can guess a hash of 256 random bits.
create function public.user_of_api_key(p_key_hash text) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
    v_key public.api_keys;
begin
    select * into v_key from public.api_keys k
    where k.key_hash = p_key_hash and (k.expires_at is null or k.expires_at > now());
    if v_key.last_used_at is null or v_key.last_used_at < now() - interval '1 minute' then
        update public.api_keys set last_used_at = now() where id = v_key.id;
    end if;
    return v_key.user_id;
end $$;

revoke all on function
    public.create_api_key(text, text, text, timestamptz),
    public.user_of_api_key(text)
    from public, anon, authenticated;
grant execute on function public.create_api_key(text, text, text, timestamptz) to authenticated;
grant execute on function public.user_of_api_key(text) to anon, authenticated;
